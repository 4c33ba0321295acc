-- Adoption by copy: rows of a file or of another database, which no trigger follows; they are read, and read again.

ALTER TABLE revector.adoption
  ALTER source DROP NOT NULL,
  ADD origin text,                          -- the file, or the URL without its password and the table
  ADD CONSTRAINT adopted_from_one_place CHECK ((source IS NULL) <> (origin IS NULL));

CREATE TABLE revector.copied (              -- documents that a reading wrote last, and as which version; of any other
  cid int NOT NULL REFERENCES revector.collection, -- version it was written here since, and no reading overtakes that
  doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL, PRIMARY KEY (cid, doc_id));
CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.copied FOR EACH STATEMENT
  EXECUTE FUNCTION revector.not_by_hand();

-- As before, but a delete of what is not here yet leaves a tombstone where a reading may be about to bring it.
CREATE OR REPLACE FUNCTION revector.write_document(collection text, id text, content text, meta jsonb, version bigint,
                                        OUT stored_version bigint, OUT outcome text)
  LANGUAGE plpgsql AS $$
DECLARE
  in_cid int; was revector.document;
  space CONSTANT text := '\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000';
BEGIN
  SELECT c.cid INTO in_cid FROM revector.collection c WHERE c.name = write_document.collection;
  IF NOT FOUND THEN
    PERFORM revector.not_served(collection);
  ELSIF coalesce(octet_length(id), 0) NOT BETWEEN 1 AND 512
      OR id COLLATE "C" ~ ('[\u0001-\u001f\u007f-\u009f]|^[' || space || ']|[' || space || ']$') THEN
    RAISE EXCEPTION 'the id "%" of a document cannot be one. Nothing was stored.', left(id, 40) USING ERRCODE = 'RV008',
      HINT = 'Ids have 1 to 512 bytes, no control characters and no outer white space.';
  ELSIF version < 0 OR coalesce(jsonb_typeof(meta), 'object') <> 'object' THEN
    RAISE EXCEPTION 'document "%": a version is 0 or more and metadata a JSON object, found % and %. It was not stored.', id,
      version, left(meta::text, 80) USING ERRCODE = 'RV008', HINT = 'Correct the arguments.';
  END IF;
  meta := CASE WHEN content IS NULL THEN '{}' ELSE coalesce(meta, '{}') END;
  WITH answered AS (
    DELETE FROM revector.rejected r WHERE r.cid = in_cid AND r.doc_id = id AND write_document.version IS NULL)
  INSERT INTO revector.document AS d (cid, doc_id, deleted, content, meta, external_version)
    SELECT in_cid, id, write_document.content IS NULL, write_document.content, write_document.meta, write_document.version
    WHERE write_document.content IS NOT NULL OR write_document.version IS NOT NULL OR EXISTS (
      SELECT 1 FROM revector.document o WHERE o.cid = in_cid AND o.doc_id = id AND NOT o.deleted)
      OR EXISTS (SELECT 1 FROM revector.adoption a WHERE a.cid = in_cid AND a.source IS NULL)
    ON CONFLICT (cid, doc_id) DO UPDATE
      SET deleted = EXCLUDED.deleted, content = EXCLUDED.content, content_hash = EXCLUDED.content_hash,
          meta = EXCLUDED.meta, external_version = coalesce(EXCLUDED.external_version, d.external_version)
      WHERE coalesce(EXCLUDED.external_version > d.external_version, true)
        AND ((d.deleted, d.content_hash, d.meta) IS DISTINCT FROM (EXCLUDED.deleted, EXCLUDED.content_hash, EXCLUDED.meta)
             OR EXCLUDED.external_version IS DISTINCT FROM d.external_version AND EXCLUDED.external_version IS NOT NULL)
    RETURNING d.version INTO stored_version;
  outcome := CASE WHEN content IS NULL THEN 'deleted' ELSE 'written' END;
  IF stored_version IS NULL THEN
    SELECT * INTO was FROM revector.document d WHERE d.cid = in_cid AND d.doc_id = id;
    stored_version := was.version;
    outcome := CASE WHEN version < was.external_version OR version = was.external_version
      AND (was.deleted, was.content, was.meta) IS DISTINCT FROM (content IS NULL, content, meta) THEN 'older'
      ELSE 'unchanged' END;
  END IF;
END $$;
