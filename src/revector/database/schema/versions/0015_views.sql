-- A view over an adopted table: its rows beside the vectors of the generation that is active. The application's view is never
-- replaced. It joins the table with revector.vectors_<cid>, which is replaced in the transaction that moves the alias, by a
-- trigger, however it is moved.

ALTER TABLE revector.adoption
  ADD view regclass,                        -- the application's; NULL where there is none
  ADD view_name text,                       -- as it was made, to make it again where someone dropped it
  ADD view_storage text,                    -- type of its vectors: CREATE OR REPLACE VIEW keeps types
  ADD view_key text,                        -- what our indexes are indexed by, so that a row of the table finds its vectors
  ADD CONSTRAINT a_view_is_of_a_table CHECK (num_nonnulls(view, view_name, view_storage, view_key) = 0
    OR num_nulls(view_name, view_storage, view_key, source) = 0);

-- Whether the alias, as the caller's snapshot has it, is where a view was made for. A snapshot may be older than the view.
CREATE FUNCTION revector.alias_is(of_cid int, of_gen int) RETURNS boolean
  LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE it record;
BEGIN
  SELECT c.name, c.active_gen INTO it FROM revector.collection c WHERE c.cid = of_cid;
  IF it.active_gen IS NULL THEN
    PERFORM revector.not_served(it.name);
  ELSIF it.active_gen IS DISTINCT FROM of_gen THEN
    RAISE EXCEPTION 'the alias of collection "%" was moved since this transaction took its snapshot. Nothing was searched.',
      it.name USING ERRCODE = 'serialization_failure', HINT = 'Begin the transaction again, and read revector.active in it.';
  END IF;
  RETURN true;
END $$;

-- A condition for any query that reads vectors by a view: true, or the error of revector.search where another model serves.
CREATE FUNCTION revector.expect(collection text, encoder_fp text) RETURNS boolean
  LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE it record;
BEGIN
  SELECT a.revision, a.encoder_fp INTO it FROM revector.active(collection) a;
  IF encoder_fp IS DISTINCT FROM it.encoder_fp THEN
    RAISE EXCEPTION 'a vector of encoder "%" was given, and revision % of collection "%", which serves, is of encoder "%". '
      'Nothing was searched.', left(encoder_fp, 80), it.revision, collection, it.encoder_fp USING ERRCODE = 'RV004',
      HINT = format('Make the vector by the model that serves, which SELECT * FROM revector.active(%L) names, and ask again '
      'with its encoder_fp.', collection);
  END IF;
  RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION revector.expect FROM PUBLIC;

-- Makes revector.vectors_<cid> read the active generation; of none, it has no rows yet, and says so when it is asked. It may
-- wait for readers only briefly: they may be waiting for the gate, which the session that moves the alias holds.
CREATE FUNCTION revector.serve_view(of_cid int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  it record;
  ext CONSTANT text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector');
BEGIN
  SELECT c.active_gen AS gen, g.physical_name AS name, a.view_storage AS storage INTO it FROM revector.collection c
    LEFT JOIN revector.generation g ON g.gen = c.active_gen LEFT JOIN revector.adoption a ON a.cid = c.cid WHERE c.cid = of_cid;
  IF it.storage IS NULL THEN
    EXECUTE format('DROP VIEW IF EXISTS revector.vectors_%s', of_cid);
  ELSIF it.gen IS NULL THEN
    EXECUTE format('CREATE OR REPLACE VIEW revector.vectors_%1$s AS SELECT NULL::text COLLATE "C" AS doc_id, NULL::int AS chunk, '
      'NULL::int AS start, NULL::int AS stop, NULL::%2$s.%3$s AS embedding WHERE revector.alias_is(%1$s, NULL)',
      of_cid, ext, it.storage);
  ELSE
    -- Without a width, which another model may have otherwise. The graph is used all the same.
    EXECUTE format('CREATE OR REPLACE VIEW revector.vectors_%1$s AS SELECT i.doc_id, i.chunk, i.start, i.stop, '
      'i.embedding::%2$s.%3$s AS embedding FROM revector.%4$I i JOIN revector.document d ON d.cid = %1$s AND d.doc_id = i.doc_id '
      'WHERE NOT d.deleted AND i.version > d.tombstone_version AND revector.alias_is(%1$s, %5$s)',
      of_cid, ext, it.storage, it.name, it.gen);
  END IF;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'a transaction that read the view revector.vectors_% did not end in time', of_cid
    USING ERRCODE = 'lock_not_available';
END $$;

CREATE FUNCTION revector.view_follows() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF to_regclass(format('revector.vectors_%s', NEW.cid)) IS NOT NULL THEN
    PERFORM revector.serve_view(NEW.cid);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER view_follows AFTER UPDATE ON revector.collection FOR EACH ROW
  WHEN (OLD.active_gen IS DISTINCT FROM NEW.active_gen) EXECUTE FUNCTION revector.view_follows();
