-- A write costs less: INSERT ... ON CONFLICT calls the triggers of both kinds, and one of them has no rows.
CREATE OR REPLACE FUNCTION revector.document_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM fresh) THEN RETURN NULL; END IF;
  INSERT INTO revector.pending AS p (gen, doc_id, version)
    SELECT s.gen, f.doc_id, f.version
    FROM fresh f JOIN revector.collection c ON c.cid = f.cid,
         LATERAL (VALUES (c.active_gen), (c.standby_gen), (c.building_gen)) s(gen)
    WHERE s.gen IS NOT NULL ORDER BY s.gen, f.doc_id
  ON CONFLICT (gen, doc_id) DO UPDATE
    SET version = EXCLUDED.version, lane = 'live', state = 'due', attempts = 0, due_at = clock_timestamp(),
        since = CASE WHEN p.lane = 'live' AND p.state = 'due' THEN p.since ELSE clock_timestamp() END,
        lease_until = NULL, lease_token = NULL, last_error = NULL
    WHERE p.version < EXCLUDED.version;
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION revector.document_answers_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM fresh) OR NOT EXISTS (SELECT FROM revector.rejected) THEN RETURN NULL; END IF;
  IF TG_OP = 'INSERT' THEN
    DELETE FROM revector.rejected r USING fresh f WHERE r.cid = f.cid AND r.doc_id = f.doc_id
      AND coalesce(f.external_version >= r.external_version, true);
  ELSE  -- a write without a version is a later one if it changes the content; a change of metadata answers nothing
    DELETE FROM revector.rejected r USING fresh f, stale s WHERE r.cid = f.cid AND r.doc_id = f.doc_id
      AND s.cid = f.cid AND s.doc_id = f.doc_id
      AND CASE WHEN f.external_version IS DISTINCT FROM s.external_version
          THEN coalesce(f.external_version >= r.external_version, true)
          ELSE f.content_hash IS DISTINCT FROM s.content_hash END;
  END IF;
  RETURN NULL;
END $$;
