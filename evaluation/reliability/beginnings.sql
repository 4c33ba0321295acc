-- What proofs add to a database with our tables: copies of collections to begin from.

CREATE SCHEMA IF NOT EXISTS simulated;

CREATE OR REPLACE FUNCTION simulated.in_sql(spec jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  $$ SELECT coalesce(spec->'index'->>'store', 'pgvector') = 'pgvector' $$;

-- A collection like another one that the library has made and nobody is working on; versions and generations are new.
CREATE OR REPLACE FUNCTION simulated.copy(template int, new_name text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE new_cid int; new_gen int; new_table text; g revector.generation; gens jsonb := '{}';
BEGIN
  INSERT INTO revector.collection (name) VALUES (new_name) RETURNING cid INTO new_cid;
  INSERT INTO revector.document (cid, doc_id, deleted, content, meta, external_version)
    SELECT new_cid, doc_id, deleted, content, meta, external_version FROM revector.document WHERE cid = template
    ORDER BY version;
  FOR g IN SELECT * FROM revector.generation WHERE cid = template ORDER BY gen LOOP
    new_gen := nextval(pg_get_serial_sequence('revector.generation', 'gen'));
    new_table := format('idx_%s_g%s', new_name, new_gen);
    gens := gens || jsonb_build_object(g.gen::text, new_gen);
    INSERT INTO revector.generation OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(g,
      jsonb_build_object('gen', new_gen, 'cid', new_cid, 'physical_name', new_table))).*;
    EXECUTE format('CREATE TABLE revector.ledger_g%s (LIKE revector.ledger INCLUDING ALL)', new_gen);
    EXECUTE format('ALTER TABLE revector.ledger ATTACH PARTITION revector.ledger_g%1$s FOR VALUES IN (%1$s)', new_gen);
    INSERT INTO revector.ledger SELECT (jsonb_populate_record(l, jsonb_build_object('gen', new_gen, 'version', d.version))).*
      FROM revector.ledger l JOIN revector.document d ON d.cid = new_cid AND d.doc_id = l.doc_id WHERE l.gen = g.gen;
    INSERT INTO revector.shard SELECT (jsonb_populate_record(s, jsonb_build_object('gen', new_gen))).*
      FROM revector.shard s WHERE s.gen = g.gen;
    INSERT INTO revector.gate_result (gen, config_hash, kind, passed, verdict, detail, changes_seen, token, at)
      SELECT new_gen, config_hash, kind, passed, verdict, detail, (SELECT max(version) FROM revector.document WHERE cid = new_cid),
        token, at FROM revector.gate_result r WHERE r.gen = g.gen ORDER BY id;
    IF NOT simulated.in_sql(g.spec) THEN  -- its points are copied by the store itself
      PERFORM revector.intent_make(new_gen);
      INSERT INTO revector.intent SELECT (jsonb_populate_record(i, jsonb_build_object('gen', new_gen, 'version',
          coalesce(d.version, 0)))).*
        FROM revector.intent i LEFT JOIN revector.document d ON d.cid = new_cid AND d.doc_id = i.doc_id
        WHERE i.gen = g.gen AND i.state = 'published' AND i.superseded_at IS NULL;
    ELSIF NOT g.dropped THEN
      EXECUTE format('CREATE TABLE revector.%I (LIKE revector.%I INCLUDING ALL)', new_table, g.physical_name);
      EXECUTE format('COMMENT ON TABLE revector.%I IS ''revector encoder %s''', new_table, g.encoder_fp);
      EXECUTE format('INSERT INTO revector.%I SELECT i.doc_id, i.chunk, d.version, i.start, i.stop, i.embedding FROM '
        'revector.%I i JOIN revector.document d ON d.cid = %s AND d.doc_id = i.doc_id', new_table, g.physical_name, new_cid);
    END IF;
  END LOOP;
  UPDATE revector.collection n SET epoch = c.epoch, active_gen = (gens ->> c.active_gen::text)::int,
    standby_gen = (gens ->> c.standby_gen::text)::int, building_gen = (gens ->> c.building_gen::text)::int,
    rollback_deadline = c.rollback_deadline FROM revector.collection c WHERE c.cid = template AND n.cid = new_cid;
  INSERT INTO revector.event SELECT (jsonb_populate_record(e, jsonb_build_object('cid', new_cid,
    'gen', gens -> e.gen::text))).* FROM revector.event e WHERE e.cid = template ORDER BY seq;
  INSERT INTO revector.lease SELECT new_cid, token, owner, taken_at FROM revector.lease WHERE cid = template;
  RETURN new_cid;
END $$;
