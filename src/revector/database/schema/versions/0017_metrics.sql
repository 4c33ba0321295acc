-- Indexes by inner product and by Euclidean distance: what is active says its metric, and a search uses its operator. A
-- score is larger for what is nearer: the cosine, the inner product, minus the distance.

-- A cut-off is on the scores of its generation, which may be any finite number; NaN is above Infinity.
ALTER TABLE revector.cutoff DROP CONSTRAINT cutoff_score_check, DROP CONSTRAINT cutoff_original_check,
  ADD CONSTRAINT cutoff_score_check CHECK (score > '-Infinity' AND score < 'Infinity'),
  ADD CONSTRAINT cutoff_original_check CHECK (original > '-Infinity' AND original < 'Infinity');

-- As in 0016_cutoffs.sql; `distance` is the metric of the index.
CREATE OR REPLACE FUNCTION revector.active(collection text)
  RETURNS TABLE (revision text, generation int, encoder_fp text, model text, dimension int, distance text,
                 normalized boolean, max_tokens int, query_prompt text, document_prompt text, store text, cutoffs jsonb)
  LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT g.revision, g.gen, g.encoder_fp, m.spec->>'name', (m.spec->>'dim')::int,
      coalesce(g.spec #>> '{index,metric}', 'cosine'),
      (m.spec->>'normalize')::boolean, (m.spec->>'max_tokens')::int, m.spec->>'query_prompt', m.spec->>'document_prompt',
      coalesce(g.spec #>> '{index,store}', 'pgvector'),
      coalesce((SELECT jsonb_object_agg(k.name, k.score) FROM revector.cutoff k WHERE k.gen = g.gen), '{}')
    FROM revector.collection c JOIN revector.generation g ON g.gen = c.active_gen,
      LATERAL (SELECT g.spec->'model') m(spec)
    WHERE c.name = active.collection;
  IF NOT FOUND THEN
    PERFORM revector.not_served(collection);
  END IF;
END $$;

-- As in 0009_search.sql, by the operator of the metric.
CREATE OR REPLACE FUNCTION revector.search(collection text, query vector, encoder_fp text, k int DEFAULT 10, filter jsonb DEFAULT NULL,
                                by text DEFAULT 'document')
  RETURNS TABLE (doc_id text, score double precision, chunk int, start int, stop int, generation int)
  LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 COST 10000 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  it record; one record; given real[]; bits boolean; exact boolean; wanted int; near int; kept bigint;
  metric text; sign text; shown text; vec text; distance text; rows text; best text; answered boolean := false;
  ef CONSTANT text := current_setting('hnsw.ef_search', true);
  iterative CONSTANT text := current_setting('hnsw.iterative_scan', true);
  most CONSTANT text := current_setting('hnsw.max_scan_tuples', true);
BEGIN
  IF k IS NULL OR k NOT BETWEEN 1 AND 1000 OR by IS NULL OR by NOT IN ('document', 'chunk') THEN
    RAISE EXCEPTION 'k must be 1 to 1,000 and by document or chunk, found % and %. Nothing was searched.', k, by
      USING ERRCODE = 'RV006', HINT = 'Correct the arguments of revector.search.';
  END IF;
  -- One snapshot for all of this: that of the statement that calls, as the function is STABLE.
  SELECT c.cid, g.gen, g.revision, g.encoder_fp, g.physical_name AS name,
      to_regclass(format('revector.%I', g.physical_name)) AS tab, (g.spec #>> '{model,dim}')::int AS dim, g.spec->'index' AS spec,
      (g.spec #>> '{model,normalize}')::boolean AS normalize,
      (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector') AS ext
    INTO it FROM revector.collection c JOIN revector.generation g ON g.gen = c.active_gen WHERE c.name = search.collection;
  IF NOT FOUND THEN
    PERFORM revector.not_served(collection);
  ELSIF encoder_fp IS DISTINCT FROM it.encoder_fp THEN
    RAISE EXCEPTION 'a vector of encoder "%" was given, and revision % of collection "%", which serves, is of encoder "%". '
      'Nothing was searched.', left(encoder_fp, 80), it.revision, collection, it.encoder_fp USING ERRCODE = 'RV004',
      HINT = format('Make the vector by the model that serves, which SELECT * FROM revector.active(%L) names, and ask again '
      'with its encoder_fp.', collection);
  ELSIF coalesce(it.spec->>'store', 'pgvector') <> 'pgvector' THEN
    RAISE EXCEPTION 'the index of collection "%" lies outside of PostgreSQL, in the store "%". Nothing was searched.', collection,
      it.spec->>'store' USING ERRCODE = 'RV003', HINT = 'Search over HTTP (revector serve) or by the Searcher in Python.';
  ELSIF it.tab IS NULL OR NOT has_table_privilege(it.tab, 'SELECT') THEN
    RAISE EXCEPTION 'the table % of the index that serves collection "%" is not there, or % may not read it. Nothing was '
      'searched.', it.name, collection, current_user USING ERRCODE = 'RV007', HINT = 'A transaction with an old snapshot still '
      'sees an index that was dropped since: begin another. Else run revector doctor, and the SQL of revector db grants again.';
  END IF;
  given := query::real[];
  IF query IS NULL OR cardinality(given) <> it.dim OR 0::real = ALL (given) THEN
    RAISE EXCEPTION 'a vector needs % numbers, not all 0, found %. Nothing was searched.', it.dim,
      coalesce(CASE WHEN cardinality(given) = it.dim THEN 'only 0' ELSE cardinality(given)::text END, 'NULL')
      USING ERRCODE = 'RV005', HINT = format('Revision %s serves vectors of %s dimensions.', it.revision, it.dim);
  END IF;

  metric := coalesce(it.spec->>'metric', 'cosine');
  sign := CASE metric WHEN 'dot' THEN '<#>' WHEN 'l2' THEN '<->' ELSE '<=>' END;
  bits := coalesce(it.spec->>'quantize', 'none') = 'bit';
  exact := it.spec->>'kind' = 'exact';
  shown := format('revector.%I i JOIN revector.document d ON d.cid = %s AND d.doc_id = i.doc_id '
    'WHERE NOT d.deleted AND i.version > d.tombstone_version', it.name, it.cid);
  IF filter IS NOT NULL AND filter <> '{}' THEN
    shown := shown || ' AND ' || revector.filter_condition(filter);
    IF NOT exact THEN  -- of a filter that keeps little, all documents are compared; counted no further than it must be
      wanted := (SELECT greatest(1000, least(20000, floor(0.05 * reltuples)::int)) FROM pg_class WHERE oid = it.tab);
      EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM revector.document d WHERE d.cid = %s AND NOT d.deleted AND %s '
        'LIMIT %s) f', it.cid, revector.filter_condition(filter), wanted) INTO kept;
      exact := kept < wanted;
    END IF;
  END IF;
  -- In length 1, in which half precision holds it; as it is where its length counts.
  IF metric = 'cosine' OR it.normalize THEN
    vec := format('CAST(%1$s.l2_normalize($1) AS %1$s.%2$s(%3$s))', it.ext, it.spec->>'storage', it.dim);
  ELSIF it.spec->>'storage' = 'halfvec' AND 65504 < ANY (SELECT abs(number) FROM unnest(given) number) THEN
    RAISE EXCEPTION 'the index keeps numbers up to 65,504, and the vector holds a larger one. Nothing was searched.'
      USING ERRCODE = 'RV005', HINT = 'The model that serves makes no such vector: see that it is the one that was asked.';
  ELSE
    vec := format('CAST($1 AS %s.%s(%s))', it.ext, it.spec->>'storage', it.dim);
  END IF;
  best := CASE by WHEN 'chunk' THEN 'SELECT * FROM hits'
    ELSE 'SELECT DISTINCT ON (doc_id) * FROM hits ORDER BY doc_id, distance, chunk' END;
  wanted := CASE by WHEN 'chunk' THEN k ELSE 4 * k END;
  LOOP
    -- "+ 0" cannot use the graph.
    distance := format('(i.embedding OPERATOR(%s.%s) %s)%s', it.ext, sign, vec, CASE WHEN exact THEN ' + 0' ELSE '' END);
    rows := shown;
    IF NOT exact THEN
      near := wanted * CASE WHEN bits THEN coalesce((it.spec->>'rerank')::int, 4) ELSE 1 END;
      IF bits THEN
        rows := format('(SELECT i.doc_id, i.chunk, i.start, i.stop, i.embedding FROM %1$s ORDER BY '
          'CAST(%2$s.binary_quantize(i.embedding) AS bit(%3$s)) OPERATOR(%2$s.<~>) CAST(%2$s.binary_quantize(%4$s) AS '
          'bit(%3$s)) LIMIT %5$s) i', shown, it.ext, it.dim, vec, near);
      END IF;
      PERFORM set_config('hnsw.ef_search', least(1000, greatest((it.spec->>'ef_search')::int, near))::text, true),
        set_config('hnsw.iterative_scan', CASE WHEN bits THEN 'relaxed_order' ELSE 'strict_order' END, true),
        set_config('hnsw.max_scan_tuples', '40000', true);
    END IF;
    FOR one IN EXECUTE format('WITH hits AS MATERIALIZED (SELECT i.doc_id, i.chunk, i.start, i.stop, %1$s AS distance '
        'FROM %2$s ORDER BY %1$s LIMIT %3$s), top AS (SELECT * FROM (%4$s) best ORDER BY distance, doc_id, chunk LIMIT %5$s) '
        'SELECT (SELECT count(*) FROM hits) AS candidates, (SELECT count(*) FROM top) AS found, t.* FROM (SELECT) s '
        'LEFT JOIN top t ON true ORDER BY t.distance, t.doc_id, t.chunk', distance, rows, wanted, best, k) USING query LOOP
      answered := one.found >= k OR exact AND one.candidates < wanted;
      EXIT WHEN NOT answered OR one.doc_id IS NULL;
      doc_id := one.doc_id; score := CASE metric WHEN 'cosine' THEN 1 ELSE 0 END - one.distance; chunk := one.chunk; start := one.start; stop := one.stop;
      generation := it.gen;
      RETURN NEXT;
    END LOOP;
    EXIT WHEN answered;
    IF NOT exact AND (one.candidates < wanted OR wanted >= 1000) THEN
      exact := true;  -- the scan gave up before k were found
    ELSE
      wanted := wanted * 4;
    END IF;
  END LOOP;
  PERFORM set_config('hnsw.ef_search', ef, true), set_config('hnsw.iterative_scan', iterative, true),
    set_config('hnsw.max_scan_tuples', most, true);
END $$;
