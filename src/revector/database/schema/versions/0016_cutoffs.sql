-- Score cut-offs that an application uses by name. Each number is of one generation, so what moves the alias, forward or back,
-- moves them in the same write.
CREATE TABLE revector.cutoff (
  gen int NOT NULL REFERENCES revector.generation,
  name text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  score double precision CHECK (score BETWEEN -1 AND 1),         -- NULL: the gate could not tell it
  original double precision CHECK (original BETWEEN -1 AND 1),   -- on the model before, from which the gate mapped it
  PRIMARY KEY (gen, name),
  CONSTRAINT a_person_chooses_a_number CHECK (num_nonnulls(score, original) > 0));
CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.cutoff FOR EACH STATEMENT
  EXECUTE FUNCTION revector.not_by_hand();

CREATE FUNCTION revector.cutoffs_follow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE left_behind text;
BEGIN
  SELECT string_agg(a.name, ', ' ORDER BY a.name) INTO left_behind FROM revector.cutoff a
    LEFT JOIN revector.cutoff n ON n.gen = NEW.active_gen AND n.name = a.name
    WHERE a.gen = OLD.active_gen AND n.score IS NULL;
  IF left_behind IS NOT NULL THEN
    RAISE EXCEPTION 'the alias of collection % was to move to generation %, which has no number for the cut-offs %', NEW.name,
      NEW.active_gen, left_behind;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cutoffs_follow BEFORE UPDATE ON revector.collection FOR EACH ROW  -- a rollback is never refused for this
  WHEN (OLD.active_gen IS DISTINCT FROM NEW.active_gen AND OLD.building_gen = NEW.active_gen)
  EXECUTE FUNCTION revector.cutoffs_follow();

-- revector.active with one more column, cutoffs: {"support": 0.42}. Other columns need another function; who may call it stays.
DO $do$
DECLARE
  callers CONSTANT text[] := ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
    FROM pg_proc p, aclexplode(p.proacl) a WHERE p.oid = 'revector.active(text)'::regprocedure AND a.grantee <> p.proowner);
  caller text;
BEGIN
  DROP FUNCTION revector.active(text);
  EXECUTE $make$
    CREATE FUNCTION revector.active(collection text)
      RETURNS TABLE (revision text, generation int, encoder_fp text, model text, dimension int, distance text,
                     normalized boolean, max_tokens int, query_prompt text, document_prompt text, store text, cutoffs jsonb)
      LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
      RETURN QUERY SELECT g.revision, g.gen, g.encoder_fp, m.spec->>'name', (m.spec->>'dim')::int, 'cosine',
          (m.spec->>'normalize')::boolean, (m.spec->>'max_tokens')::int, m.spec->>'query_prompt', m.spec->>'document_prompt',
          coalesce(g.spec #>> '{index,store}', 'pgvector'),
          coalesce((SELECT jsonb_object_agg(k.name, k.score) FROM revector.cutoff k WHERE k.gen = g.gen), '{}')
        FROM revector.collection c JOIN revector.generation g ON g.gen = c.active_gen,
          LATERAL (SELECT g.spec->'model') m(spec)
        WHERE c.name = active.collection;
      IF NOT FOUND THEN
        PERFORM revector.not_served(collection);
      END IF;
    END $$
  $make$;
  REVOKE EXECUTE ON FUNCTION revector.active FROM PUBLIC;
  FOREACH caller IN ARRAY callers LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION revector.active TO %s', caller);
  END LOOP;
END $do$;
