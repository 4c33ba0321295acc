-- Closes faults of the shipped product that need a change of tables, one part for each fault.

-- An older message never removes the trace of a newer one that was refused: a refused record keeps its version, and
-- falls by a later write, whoever makes it, or is waived by a person.
ALTER TABLE revector.rejected
  ADD COLUMN external_version bigint,
  ADD COLUMN waived_by text CHECK (waived_by <> ''), ADD COLUMN waived_why text CHECK (waived_why <> ''),
  ADD COLUMN waived_at timestamptz,
  ADD CONSTRAINT a_waiver_has_a_name_and_a_reason CHECK (
    (waived_by IS NULL) = (waived_why IS NULL) AND (waived_by IS NULL) = (waived_at IS NULL));

CREATE VIEW revector.refused AS             -- records that nothing newer has answered; behind: an older text is served
  SELECT r.*, coalesce(NOT d.deleted, false) AS behind
  FROM revector.rejected r LEFT JOIN revector.document d USING (cid, doc_id)
  WHERE coalesce(r.external_version > d.external_version, true);

CREATE FUNCTION revector.document_answers_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
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
CREATE TRIGGER d_refused_insert AFTER INSERT ON revector.document REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();
CREATE TRIGGER d_refused_update AFTER UPDATE ON revector.document REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();
ALTER TABLE revector.document ENABLE ALWAYS TRIGGER d_refused_insert, ENABLE ALWAYS TRIGGER d_refused_update;

-- What the provider had cost when a generation was registered: the cap of its migration counts from there.
ALTER TABLE revector.generation ADD COLUMN spent jsonb NOT NULL DEFAULT '{}';
UPDATE revector.generation g SET spent = e.detail->'spent' FROM revector.event e
  WHERE (e.cid, e.gen, e.kind) = (g.cid, g.gen, 'provision') AND e.detail ? 'spent';
