-- Indexes in stores outside of this database: SQL knows every point that may exist there, and decides which are shown.
-- Lock order everywhere: collection → document → generation → pending → intent → ledger.

ALTER TABLE revector.ledger ADD COLUMN attempt uuid;  -- which points of the store are shown; NULL in this database's own
ALTER TABLE revector.ledger ADD CONSTRAINT a_tombstone_names_no_attempt CHECK (NOT deleted OR attempt IS NULL) NOT VALID;

CREATE SEQUENCE revector.publish_seq CACHE 1;         -- the order of showing: a clock may be set, this only rises
SELECT setval('revector.publish_seq', 1);

CREATE TABLE revector.intent (              -- one try to embed one version of a document; its points are uuid5(attempt, n)
  gen int NOT NULL, attempt uuid NOT NULL, doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL,
  content_hash text NOT NULL, n_chunks int NOT NULL CHECK (n_chunks > 0),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'published', 'doomed')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  superseded_seq bigint, superseded_at timestamptz,              -- since when the ledger names another attempt, or none
  doomed_at timestamptz, removed_at timestamptz,
  PRIMARY KEY (gen, attempt),
  CONSTRAINT only_published_is_superseded CHECK (
    superseded_at IS NULL OR state <> 'open' AND superseded_seq IS NOT NULL),
  CONSTRAINT doomed_before_removed CHECK ((state = 'doomed') = (doomed_at IS NOT NULL) AND (removed_at IS NULL OR state = 'doomed')))
  PARTITION BY LIST (gen);
CREATE INDEX intent_canary ON revector.intent (gen) WHERE doc_id = '';  -- one point by which a store's loss is noticed
CREATE INDEX intent_garbage ON revector.intent (state, created_at) WHERE state <> 'published' OR superseded_at IS NOT NULL;

CREATE TRIGGER only_forward BEFORE UPDATE ON revector.intent FOR EACH ROW
  WHEN ((OLD.gen, OLD.attempt, OLD.doc_id, OLD.version, OLD.content_hash, OLD.n_chunks)
        IS DISTINCT FROM (NEW.gen, NEW.attempt, NEW.doc_id, NEW.version, NEW.content_hash, NEW.n_chunks)
        OR OLD.state = 'doomed' AND NEW.state <> 'doomed' OR OLD.state = 'published' AND NEW.state = 'open')
  EXECUTE FUNCTION revector.refuse('an attempt is given up once and for all');
CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.intent FOR EACH STATEMENT
  EXECUTE FUNCTION revector.not_by_hand();

CREATE FUNCTION revector.intent_make(of_gen int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('CREATE TABLE revector.intent_g%s (LIKE revector.intent INCLUDING ALL) WITH (autovacuum_vacuum_scale_factor '
    '= 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)', of_gen);
  EXECUTE format('CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.intent_g%s FOR EACH STATEMENT EXECUTE '
    'FUNCTION revector.not_by_hand()', of_gen);
  EXECUTE format('ALTER TABLE revector.intent ATTACH PARTITION revector.intent_g%1$s FOR VALUES IN (%1$s)', of_gen);
END $$;
CREATE OR REPLACE FUNCTION revector.ledger_drop(of_gen int, wait_ms int) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN  -- false: someone reads or writes it for longer than wait_ms
  IF NOT EXISTS (SELECT 1 FROM revector.generation WHERE gen = of_gen AND dropped) THEN
    RAISE EXCEPTION 'generation % is not dropped, and its ledger stays', of_gen;
  END IF;
  PERFORM set_config('lock_timeout', wait_ms::text, true);
  EXECUTE format('DROP TABLE IF EXISTS revector.intent_g%s', of_gen);
  EXECUTE format('DROP TABLE IF EXISTS revector.ledger_g%s', of_gen);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN RETURN false;
END $$;
REVOKE EXECUTE ON FUNCTION revector.intent_make FROM PUBLIC;

CREATE VIEW revector.i9_intent AS           -- the ledger names a published attempt of the same document and content
  SELECT l.gen, l.doc_id
  FROM revector.generation g JOIN revector.ledger l USING (gen)
    LEFT JOIN revector.intent i ON i.gen = l.gen AND i.attempt = l.attempt
  WHERE g.live AND NOT l.deleted AND CASE WHEN coalesce(g.spec->'index'->>'store', 'pgvector') = 'pgvector' THEN l.attempt IS NOT NULL
    ELSE i.state IS DISTINCT FROM 'published' OR i.superseded_at IS NOT NULL OR i.doc_id <> l.doc_id OR i.version > l.version
      OR i.n_chunks <> l.n_chunks OR i.content_hash <> l.content_hash AND l.content_hash <> '' END;

-- A revector that knows nothing of intents would show and consume what it must not.
ALTER TABLE revector.collection ALTER COLUMN protocol_version SET DEFAULT 2;
UPDATE revector.collection SET protocol_version = 2;
