-- The ledger is partitioned by generation: a generation that ends takes its table with it, whatever its size.

DROP VIEW revector.i1_lost, revector.i2_ahead;
ALTER TABLE revector.ledger RENAME TO ledger_before;
ALTER TABLE revector.ledger_before RENAME CONSTRAINT ledger_pkey TO ledger_before_pkey;
DROP INDEX revector.ledger_content;

CREATE TABLE revector.ledger (              -- what is visible, per generation and document
  gen int NOT NULL, doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL, deleted boolean NOT NULL,
  n_chunks int NOT NULL, content_hash text,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (gen, doc_id),
  CONSTRAINT a_tombstone_has_no_chunks CHECK (deleted = (n_chunks = 0) AND deleted = (content_hash IS NULL)))
  PARTITION BY LIST (gen);
-- 8 bytes of the hash find a text as well as its 64 letters, from a third of the pages.
CREATE INDEX ledger_content ON revector.ledger (hashtextextended(content_hash, 0)) WHERE NOT deleted;
CREATE TRIGGER only_forward BEFORE UPDATE ON revector.ledger FOR EACH ROW WHEN (NEW.version < OLD.version)
  EXECUTE FUNCTION revector.refuse('an older version never replaces a newer one');

DO $$ DECLARE g int; BEGIN                  -- as registry/ledgers.py makes them
  FOR g IN SELECT gen FROM revector.generation WHERE NOT dropped ORDER BY gen LOOP
    EXECUTE format('CREATE TABLE revector.ledger_g%s (LIKE revector.ledger INCLUDING ALL) WITH (autovacuum_vacuum_scale_factor '
      '= 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)', g);
    EXECUTE format('ALTER TABLE revector.ledger ATTACH PARTITION revector.ledger_g%1$s FOR VALUES IN (%1$s)', g);
    INSERT INTO revector.ledger SELECT * FROM revector.ledger_before WHERE gen = g ORDER BY doc_id;
  END LOOP;
END $$;
DROP TABLE revector.ledger_before;

CREATE VIEW revector.i1_lost AS             -- a live, seeded generation lacks a document, and no item waits for it
  SELECT s.gen, d.doc_id, d.version
  FROM revector.slot s JOIN revector.generation g USING (gen) JOIN revector.document d ON d.cid = s.cid
  LEFT JOIN revector.ledger l ON l.gen = s.gen AND l.doc_id = d.doc_id
  LEFT JOIN revector.pending p ON p.gen = s.gen AND p.doc_id = d.doc_id AND p.version >= d.version
  WHERE g.seeded AND p.gen IS NULL AND l.version IS DISTINCT FROM d.version AND NOT (d.deleted AND coalesce(l.deleted, true));

CREATE VIEW revector.i2_ahead AS            -- nothing comes from the future
  SELECT l.gen, l.doc_id FROM revector.ledger l JOIN revector.generation g USING (gen)
    JOIN revector.document d ON d.cid = g.cid AND d.doc_id = l.doc_id WHERE l.version > d.version
  UNION ALL
  SELECT p.gen, p.doc_id FROM revector.pending p JOIN revector.generation g USING (gen)
    JOIN revector.document d ON d.cid = g.cid AND d.doc_id = p.doc_id WHERE p.version > d.version;

-- A fifth of dead rows, PostgreSQL's own mark, is 200 million of a billion; the work set turns over many times a day.
ALTER TABLE revector.document SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE revector.pending SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
