-- What a simulation adds to a database with our tables: a clock that only it moves, one look at everything, and copies
-- of collections to begin from.

CREATE SCHEMA simulated;

-- A sequence, because its value is not part of any snapshot: a clock goes on inside a transaction.
CREATE SEQUENCE simulated.clock;           -- microseconds since 1970

CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN RETURN '1970-01-01 UTC'::timestamptz + (SELECT last_value FROM simulated.clock) * interval '1 microsecond'; END $$;

DO $$
DECLARE d record;
BEGIN  -- defaults were bound to the real clock when the tables were made
  FOR d IN SELECT c.oid::regclass AS of, a.attname FROM pg_attrdef f JOIN pg_class c ON c.oid = f.adrelid
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.adnum
           WHERE c.relnamespace = 'revector'::regnamespace AND pg_get_expr(f.adbin, f.adrelid) LIKE '%clock_timestamp()' LOOP
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT simulated.clock_timestamp()', d.of, d.attname);
  END LOOP;
END $$;

CREATE FUNCTION simulated.in_sql(spec jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  $$ SELECT coalesce(spec->'index'->>'store', 'pgvector') = 'pgvector' $$;

-- What each live index holds: document, version and number of its rows, and whether they are numbered 0, 1, 2, …
CREATE FUNCTION simulated.rows_of(of_cid int) RETURNS json LANGUAGE plpgsql AS $$
DECLARE asked text; found json;
BEGIN
  SELECT string_agg(format('SELECT %s, doc_id, min(version), max(version), count(*), min(chunk) = 0 AND max(chunk) = '
                           'count(*) - 1 FROM revector.%I GROUP BY doc_id', g.gen, g.physical_name), ' UNION ALL ')
    INTO asked FROM revector.slot s JOIN revector.generation g USING (gen)
    WHERE s.cid = of_cid AND simulated.in_sql(g.spec);
  IF asked IS NULL THEN RETURN '[]'; END IF;
  EXECUTE format('SELECT coalesce(json_agg(json_build_array(gen, doc_id, lowest, highest, n, whole)), ''[]'') FROM (%s) '
                 'r(gen, doc_id, lowest, highest, n, whole)', asked) INTO found;
  RETURN found;
END $$;

CREATE FUNCTION simulated.look(of_cid int, seen bigint) RETURNS json LANGUAGE plpgsql AS $$
DECLARE gens int[] := ARRAY(SELECT gen FROM revector.generation WHERE cid = of_cid);
BEGIN
  RETURN json_build_object(
    'collection', (SELECT row_to_json(c) FROM revector.collection c WHERE cid = of_cid),
    'generations', (SELECT coalesce(json_agg(json_build_object(
        'gen', gen, 'revision', revision, 'phase', phase, 'live', live, 'dropped', dropped, 'seeded', seeded,
        'table', physical_name, 'in_sql', simulated.in_sql(spec), 'ended', ended_at, 'identity', md5(concat_ws('|', cid, revision, physical_name, spec,
          config_hash, chunker_fp, encoder_fp, encoder, md5(probes), window_hours, needs_approval))) ORDER BY gen), '[]')
      FROM revector.generation WHERE cid = of_cid),
    'documents', (SELECT coalesce(json_agg(json_build_array(doc_id, version, deleted, tombstone_version, content, meta,
        external_version)), '[]') FROM revector.document WHERE cid = of_cid),
    'ledger', (SELECT coalesce(json_agg(json_build_array(gen, doc_id, version, deleted, n_chunks, content_hash)), '[]')
      FROM revector.ledger WHERE gen = ANY (gens)),
    'pending', (SELECT coalesce(json_agg(json_build_array(gen, doc_id, version, lane, state, EXISTS (SELECT 1
        FROM revector.waiver w WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version)))), '[]')
      FROM revector.pending p WHERE gen = ANY (gens)),
    'events', (SELECT coalesce(json_agg(json_build_array(e.seq, e.kind, e.gen, e.epoch, e.actor, e.detail,
        e.hash = revector.event_hash(coalesce(b.hash, ''), e)) ORDER BY e.seq), '[]')
      FROM revector.event e LEFT JOIN revector.event b ON b.cid = e.cid AND b.seq = e.seq - 1
      WHERE e.cid = of_cid AND e.seq > seen),
    'i1_lost', (SELECT coalesce(json_agg(v), '[]') FROM revector.i1_lost v WHERE gen = ANY (gens)),
    'i2_ahead', (SELECT coalesce(json_agg(v), '[]') FROM revector.i2_ahead v WHERE gen = ANY (gens)),
    'i5_slots', (SELECT coalesce(json_agg(v), '[]') FROM revector.i5_slots v WHERE cid = of_cid),
    'i9_intent', (SELECT coalesce(json_agg(v), '[]') FROM revector.i9_intent v WHERE gen = ANY (gens)),
    'attempts', (SELECT coalesce(json_agg(json_build_array(i.gen, i.attempt, i.doc_id, i.version, i.n_chunks, i.state,
        l.attempt IS NOT NULL, p.gen IS NOT NULL) ORDER BY i.created_at, i.doc_id), '[]')
      FROM revector.intent i LEFT JOIN revector.ledger l ON l.gen = i.gen AND l.attempt = i.attempt
        LEFT JOIN revector.pending p ON p.gen = i.gen AND p.doc_id = i.doc_id WHERE i.gen = ANY (gens)),
    'i13_unwaived', (SELECT coalesce(json_agg(v), '[]') FROM revector.i13_unwaived v WHERE gen = ANY (gens)),
    'lease', (SELECT json_build_array(token, owner) FROM revector.lease WHERE cid = of_cid),
    'results', (SELECT coalesce(json_agg(json_build_array(r.gen, r.kind, r.id, r.passed, r.token, r.config_hash = g.config_hash,
        extract(epoch FROM simulated.clock_timestamp() - r.at) / 3600, r.changes_seen) ORDER BY r.id), '[]')
      FROM revector.gate_result r JOIN revector.generation g USING (gen) WHERE g.cid = of_cid),
    'rows', simulated.rows_of(of_cid));
END $$;

-- A collection like another one that the library has made and nobody is working on; versions and generations are new.
CREATE FUNCTION simulated.copy(template int, new_name text) RETURNS int LANGUAGE plpgsql AS $$
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
