-- A row that is not copied yet leaves a tombstone too: a page of the copy that saw it before would bring it back.
CREATE OR REPLACE FUNCTION revector.adopted_delete(of_cid int, id text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO revector.document AS d (cid, doc_id, deleted)
  SELECT of_cid, id, true WHERE revector.adopted_unfit(id, '', 1) IS NULL
  ON CONFLICT (cid, doc_id) DO UPDATE SET deleted = true, content = NULL, content_hash = NULL, meta = '{}'
  WHERE NOT d.deleted $$;
