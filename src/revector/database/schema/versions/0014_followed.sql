-- Documents of a collection that follows a table are the rows of that table, and are written by writing it: what else
-- wrote them would be undone by the table's next write, or by verify --repair. Triggers of the table write them from
-- inside (pg_trigger_depth), its copy says so, and a tombstone of a document that never was is a repair's.
CREATE FUNCTION revector.document_of_a_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE it record;
BEGIN
  SELECT c.name, CAST(a.source AS regclass)::text AS source INTO it
    FROM revector.adoption a JOIN revector.collection c USING (cid) WHERE a.cid = NEW.cid AND a.source IS NOT NULL;
  IF FOUND AND current_setting('revector.copies_rows', true) IS DISTINCT FROM 'on' THEN
    RAISE EXCEPTION 'collection "%" follows the table %, whose rows are its documents, and document "%" was to be written by '
      'itself. Nothing was stored.', it.name, it.source, NEW.doc_id USING ERRCODE = 'RV010',
      HINT = 'Write the row; or end the adoption with revector unadopt.';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER of_a_row_insert BEFORE INSERT ON revector.document FOR EACH ROW
  WHEN (pg_trigger_depth() = 0 AND NOT NEW.deleted) EXECUTE FUNCTION revector.document_of_a_row();
CREATE TRIGGER of_a_row_update BEFORE UPDATE ON revector.document FOR EACH ROW
  WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION revector.document_of_a_row();
