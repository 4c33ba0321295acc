-- Searches and writes by functions, for applications in any language. search, active, put and delete are SECURITY DEFINER
-- with a fixed search_path: a role that may call them needs no right on any table, so it cannot read texts or go round
-- what they check. What they refuse has a SQLSTATE of the class RV and a hint; README.md lists them.

CREATE FUNCTION revector.not_served(collection text) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM revector.collection c WHERE c.name = not_served.collection) THEN
    RAISE EXCEPTION 'collection "%" serves nothing yet. Nothing was searched.', collection
      USING ERRCODE = 'RV002', HINT = 'Build its first index: revector upgrade.';
  END IF;
  RAISE EXCEPTION 'there is no collection "%" in this database. Nothing was changed.', collection
    USING ERRCODE = 'RV001', HINT = 'Add it to revector.toml and run revector init, or correct the name.';
END $$;

-- What a client needs to make the vector of a query, and to see that it is still the right one.
CREATE FUNCTION revector.active(collection text)
  RETURNS TABLE (revision text, generation int, encoder_fp text, model text, dimension int, distance text,
                 normalized boolean, max_tokens int, query_prompt text, document_prompt text, store text)
  LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT g.revision, g.gen, g.encoder_fp, m.spec->>'name', (m.spec->>'dim')::int, 'cosine',
      (m.spec->>'normalize')::boolean, (m.spec->>'max_tokens')::int, m.spec->>'query_prompt', m.spec->>'document_prompt',
      coalesce(g.spec #>> '{index,store}', 'pgvector')
    FROM revector.collection c JOIN revector.generation g ON g.gen = c.active_gen, LATERAL (SELECT g.spec->'model') m(spec)
    WHERE c.name = active.collection;
  IF NOT FOUND THEN
    PERFORM revector.not_served(collection);
  END IF;
END $$;

-- Searching ------------------------------------------------------------------------------------------------------------

CREATE FUNCTION revector.filter_refused(said text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%. Nothing was searched.', said USING ERRCODE = 'RV006',
    HINT = 'A filter is an object of fields: {"lang": "en"}, {"lang": ["en", "de"]}, {"year": {"gte": 2020, "lt": 2024}}.';
END $$;

-- Some days before or after a moment, to compare as text whatever the zones; the calendar of Python ends with 9999.
CREATE FUNCTION revector.filter_day(moment text, days int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN left(moment, 10) <= '9999-12-28' THEN to_char(left(moment, 10)::date + days, 'YYYY-MM-DD')
    WHEN days < 0 THEN '' ELSE ':' END $$;

-- The conditions of serving/filters.py over d.meta, as SQL. A test compares the two.
CREATE FUNCTION revector.filter_condition(filter jsonb) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  day CONSTANT text := '(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|'
    '[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|'
    '(?:[2468][048]|[13579][26])00)-02-29)';
  clock CONSTANT text := '[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?';
  zone CONSTANT text := '(?:[Zz]|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)';
  dated CONSTANT text := '^' || day || '$'; naive CONSTANT text := '^' || day || clock || '$';
  zoned CONSTANT text := '^' || day || clock || zone || '$';
  value CONSTANT text := '(e.value #>> ''{}'')';
  moment CONSTANT text := format('CASE WHEN %1$s ~ %2$L THEN CAST(%1$s AS timestamptz) WHEN %1$s ~ %3$L '
    'THEN CAST(%1$s || ''Z'' AS timestamptz) END', value, zoned, naive);
  midnight CONSTANT text := format('CASE WHEN %1$s ~ %2$L THEN CAST(%1$s || ''T00:00Z'' AS timestamptz) END', value,
    dated);
  element CONSTANT text := 'd.meta @? %1$L::jsonpath AND EXISTS (SELECT FROM jsonb_path_query(d.meta, %1$L::jsonpath) '
    'AS e(value) WHERE %2$s)';
  name text; wanted jsonb; ways jsonb; way text[]; path text; paths text[]; bound jsonb; op text; sign text; said text;
  before text; after text; single jsonb[]; times text[]; ors text[]; clauses text[] := '{}';
  certain text[]; possible text[]; exact text[];
BEGIN
  IF filter IS NULL THEN
    RETURN '';
  ELSIF jsonb_typeof(filter) <> 'object' THEN
    PERFORM revector.filter_refused('a filter is an object of metadata fields, found ' || left(filter::text, 80));
  ELSIF (SELECT count(*) FROM jsonb_object_keys(filter)) > 64 OR length(filter::text) > 300000
      OR jsonb_path_exists(filter, 'strict $.**{33 to last}')
      OR (SELECT count(*) FROM jsonb_path_query(filter, 'strict $.**') v WHERE jsonb_typeof(v) NOT IN ('object', 'array'))
        > 1000 THEN
    PERFORM revector.filter_refused('a filter may have 64 fields, 1,000 values, 32 levels and 300,000 characters');
  END IF;
  FOR name, wanted IN SELECT * FROM jsonb_each(filter) LOOP
    IF name = '' THEN
      PERFORM revector.filter_refused('a filter names metadata fields, found ""');
    END IF;
    ways := jsonb_build_array(jsonb_build_array(name));
    way := string_to_array(name, '.');
    IF cardinality(way) > 1 AND '' <> ALL (way) THEN
      ways := ways || jsonb_build_array(to_jsonb(way));
    END IF;
    paths := ARRAY(SELECT '$' || string_agg('.' || key::text, '' ORDER BY place) FROM jsonb_array_elements(ways)
      WITH ORDINALITY w(keys, n), jsonb_array_elements(keys) WITH ORDINALITY k(key, place) GROUP BY n ORDER BY n);
    ors := '{}';
    IF jsonb_typeof(wanted) = 'object' THEN
      FOREACH path IN ARRAY paths LOOP
        certain := '{}'; possible := '{}'; exact := '{}';
        FOR op, bound IN SELECT * FROM jsonb_each(wanted) LOOP
          sign := CASE op WHEN 'gt' THEN '>' WHEN 'gte' THEN '>=' WHEN 'lt' THEN '<' WHEN 'lte' THEN '<=' END;
          IF sign IS NULL OR jsonb_typeof(bound) NOT IN ('number', 'string') THEN
            PERFORM revector.filter_refused(format('filter %L: a range takes gt, gte, lt, lte with a number or text, found '
              '%s', name, left(wanted::text, 80)));
          END IF;
          said := CASE WHEN jsonb_typeof(bound) = 'string' THEN bound #>> '{}' END;
          IF said ~ zoned OR said ~ naive OR said ~ dated THEN
            before := revector.filter_day(said, -2);
            after := revector.filter_day(said, 3);
            possible := possible || format('@ %s "%s"', sign, CASE WHEN sign LIKE '>%' THEN before ELSE after END);
            certain := certain || format('@ %s "%s"', sign, CASE WHEN sign LIKE '>%' THEN after ELSE before END);
            exact := exact || format('coalesce(coalesce(%s, %s) %s %L::timestamptz, %s COLLATE "C" %3$s %6$L)', moment,
              midnight, sign, said || CASE WHEN said ~ dated THEN 'T00:00Z' WHEN said ~ naive THEN 'Z' ELSE '' END, value,
              said);
          ELSE
            possible := possible || format('@ %s %s', sign, bound);
            certain := certain || format('@ %s %s', sign, bound);
          END IF;
        END LOOP;
        IF certain = '{}' THEN
          PERFORM revector.filter_refused(format('filter %L: a range names gt, gte, lt or lte, found {}', name));
        END IF;
        ors := ors || format('d.meta @? %L::jsonpath', path || ' ? (' || array_to_string(certain, ' && ') || ')');
        IF exact <> '{}' THEN
          ors := ors || format(element, path || ' ? (' || array_to_string(possible, ' && ') || ')',
            array_to_string(exact, ' AND '));
        END IF;
      END LOOP;
    ELSE
      IF jsonb_typeof(wanted) <> 'array' THEN
        wanted := jsonb_build_array(wanted);
      ELSIF wanted = '[]' THEN
        PERFORM revector.filter_refused(format('filter %L: "one of" needs at least one value, found an empty list', name));
      END IF;
      single := ARRAY(SELECT v FROM jsonb_array_elements(wanted) v WHERE jsonb_typeof(v) NOT IN ('object', 'array'));
      IF cardinality(single) > 64 THEN  -- in a hash table: the index would compare each row with each of them
        FOR n IN 1 .. cardinality(paths) LOOP
          way := ARRAY(SELECT jsonb_array_elements_text(ways -> n - 1));
          ors := ors || format('d.meta #> %L::text[] = ANY (%L::jsonb[])', way, single)
            || (format('jsonb_typeof(d.meta -> %L) IN (''array'', ''object'') AND ', way[1])
                || format(element, paths[n] || '[*]', format('e.value = ANY (%L::jsonb[])', single)));
        END LOOP;
      ELSIF single <> '{}' THEN
        ors := ors || format('d.meta @@ %L::jsonpath', (SELECT string_agg(format('%s == %s', p, v), ' || ')
          FROM unnest(paths) p, unnest(single) v));
      END IF;
      ors := ors || ARRAY(SELECT format('d.meta @> %L::jsonb', jsonb_build_object(name, v))
        FROM jsonb_array_elements(wanted) v WHERE jsonb_typeof(v) IN ('object', 'array'));
      times := ARRAY(SELECT t FROM unnest(single) v, LATERAL (SELECT v #>> '{}') s(t)
        WHERE jsonb_typeof(v) = 'string' AND (t ~ zoned OR t ~ naive));
      IF times <> '{}' THEN
        SELECT min(revector.filter_day(t, -2) COLLATE "C"), max(revector.filter_day(t, 3) COLLATE "C") INTO before, after
          FROM unnest(times) t;
        times := ARRAY(SELECT CASE WHEN t ~ zoned THEN t ELSE t || 'Z' END FROM unnest(times) t);
        FOREACH path IN ARRAY paths LOOP
          ors := ors || format(element, format('%s ? (@ >= "%s" && @ < "%s")', path, before, after),
            format('%s = ANY (%L::timestamptz[])', moment, times));
        END LOOP;
      END IF;
    END IF;
    clauses := clauses || ('(' || array_to_string(ors, ' OR ') || ')');
  END LOOP;
  RETURN array_to_string(clauses, ' AND ');
END $$;

CREATE FUNCTION revector.search(collection text, query vector, encoder_fp text, k int DEFAULT 10, filter jsonb DEFAULT NULL,
                                by text DEFAULT 'document')
  RETURNS TABLE (doc_id text, score double precision, chunk int, start int, stop int, generation int)
  LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 COST 10000 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  it record; one record; given real[]; bits boolean; exact boolean; wanted int; near int; kept bigint;
  shown text; vec text; distance text; rows text; best text; answered boolean := false;
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
  -- In length 1, in which half precision holds it.
  vec := format('CAST(%1$s.l2_normalize($1) AS %1$s.%2$s(%3$s))', it.ext, it.spec->>'storage', it.dim);
  best := CASE by WHEN 'chunk' THEN 'SELECT * FROM hits'
    ELSE 'SELECT DISTINCT ON (doc_id) * FROM hits ORDER BY doc_id, distance, chunk' END;
  wanted := CASE by WHEN 'chunk' THEN k ELSE 4 * k END;
  LOOP
    -- "+ 0" cannot use the graph.
    distance := format('(i.embedding OPERATOR(%s.<=>) %s)%s', it.ext, vec, CASE WHEN exact THEN ' + 0' ELSE '' END);
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
      doc_id := one.doc_id; score := 1 - one.distance; chunk := one.chunk; start := one.start; stop := one.stop;
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

REVOKE EXECUTE ON FUNCTION revector.search, revector.active FROM PUBLIC;
