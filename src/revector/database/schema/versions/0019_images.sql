-- Documents that hold an image. Its bytes lie once, under their SHA-256, and commit with the document that names them: no
-- vector, backup or other machine refers to bytes that are not there.
CREATE TABLE revector.image (
  sha256 text COLLATE "C" PRIMARY KEY,
  bytes bytea NOT NULL,
  CONSTRAINT an_image_is_its_hash CHECK (sha256 = encode(sha256(bytes), 'hex')));
ALTER TABLE revector.image ALTER bytes SET STORAGE EXTERNAL;     -- it is compressed already

ALTER TABLE revector.document ADD image text COLLATE "C" REFERENCES revector.image,
  ADD CONSTRAINT a_tombstone_holds_no_image CHECK (NOT deleted OR image IS NULL);
CREATE INDEX document_image ON revector.document (image) WHERE image IS NOT NULL;

-- As in 0002_gate.sql; the hash is of all that the document holds. No text has a NUL, so no text has the hash of another
-- document's text and image.
CREATE OR REPLACE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Queues fairly, so that a waiting swap is not overtaken for ever. From here on the slots stay as they are.
  PERFORM pg_advisory_xact_lock_shared(1919252067, NEW.cid);
  -- A writer whose snapshot is older than the gate would miss a generation: PostgreSQL answers 40001 instead.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR SHARE;
  END IF;
  -- Under the row lock, so that versions rise in commit order.
  NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  -- However the row is written, a tombstone holds no content and the hash is the content's own: workers trust it.
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.image := CASE WHEN NOT NEW.deleted THEN NEW.image END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')
    || CASE WHEN NEW.image IS NULL THEN '' ELSE '\x00'::bytea || convert_to(NEW.image, 'UTF8') END), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- As in 0013_copied.sql: a text that is put replaces all of the document, the image with it.
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
      SET deleted = EXCLUDED.deleted, content = EXCLUDED.content, image = NULL, content_hash = EXCLUDED.content_hash,
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
      AND (was.deleted, was.content, was.image, was.meta) IS DISTINCT FROM (content IS NULL, content, NULL::text, meta) THEN 'older'
      ELSE 'unchanged' END;
  END IF;
END $$;

-- As in 0010_adoption.sql: of an adopted row too.
CREATE OR REPLACE FUNCTION revector.adopted_put(of_cid int, id text, body text, metadata jsonb, most_bytes bigint) RETURNS void
  LANGUAGE plpgsql AS $$
DECLARE why text := revector.adopted_unfit(id, body, most_bytes);
BEGIN
  IF why IS NOT NULL THEN  -- a dead letter: the application's own write goes on
    INSERT INTO revector.rejected AS r (cid, doc_id, source, reason)
    VALUES (of_cid, CASE WHEN octet_length(id) <= 512 THEN id ELSE left(id, 120) || '… (' || md5(id) || ')' END,
            'adopted table', why)
    ON CONFLICT (cid, doc_id) DO UPDATE SET reason = EXCLUDED.reason, source = EXCLUDED.source, at = clock_timestamp();
  ELSE
    INSERT INTO revector.document AS d (cid, doc_id, content, meta) VALUES (of_cid, id, body, metadata)
    ON CONFLICT (cid, doc_id) DO UPDATE SET deleted = false, content = EXCLUDED.content, image = NULL, meta = EXCLUDED.meta
    WHERE d.deleted OR d.image IS NOT NULL OR (d.content, d.meta) IS DISTINCT FROM (EXCLUDED.content, EXCLUDED.meta);
  END IF;
END $$;
