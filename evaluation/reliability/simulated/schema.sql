-- What a simulation adds to a database with our tables: a clock that only it moves, and one look at everything.

CREATE SCHEMA IF NOT EXISTS simulated;

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
