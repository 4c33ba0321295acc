-- Adopted tables: an application's own rows are documents, followed by triggers in the application's own transactions.

CREATE TABLE revector.adoption (
  cid int PRIMARY KEY REFERENCES revector.collection,
  source regclass NOT NULL,                 -- follows ALTER TABLE ... RENAME and SET SCHEMA
  terms jsonb NOT NULL,                     -- which columns are id, text, metadata and vector (adoption/terms.py)
  columns jsonb NOT NULL,                   -- their numbers, by name: they follow RENAME COLUMN
  horizon bigint NOT NULL,                  -- rows that transactions before this one wrote have a vector of their text
  vectors_fp text NOT NULL, chunker_fp text NOT NULL,             -- what the vectors were proved to be; '' takes none
  proof jsonb NOT NULL,
  cursor jsonb,                             -- key of the last row that was copied; NULL before the first
  copied boolean NOT NULL DEFAULT false,
  adopted_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.adoption FOR EACH STATEMENT
  EXECUTE FUNCTION revector.not_by_hand();

CREATE FUNCTION revector.adopted_unfit(id text, body text, most_bytes bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE  -- why a row cannot be a document; NULL where it can
    WHEN octet_length(id) NOT BETWEEN 1 AND 512 THEN format('its id takes %s bytes, 1 to 512 are allowed', octet_length(id))
    WHEN id ~ '[\x01-\x1f\x7f]' OR id ~ '^\s|\s$' THEN
      'its id holds a control character, or begins or ends with white space'
    WHEN octet_length(body) > most_bytes THEN
      format('its text takes %s bytes, at most %s are allowed', octet_length(body), most_bytes) END $$;
CREATE FUNCTION revector.adopted_put(of_cid int, id text, body text, metadata jsonb, most_bytes bigint) RETURNS void
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
    ON CONFLICT (cid, doc_id) DO UPDATE SET deleted = false, content = EXCLUDED.content, meta = EXCLUDED.meta
    WHERE d.deleted OR (d.content, d.meta) IS DISTINCT FROM (EXCLUDED.content, EXCLUDED.meta);
  END IF;
END $$;
CREATE FUNCTION revector.adopted_delete(of_cid int, id text) RETURNS void LANGUAGE sql AS $$
  UPDATE revector.document SET deleted = true, content = NULL, content_hash = NULL, meta = '{}'
  WHERE cid = of_cid AND doc_id = id AND NOT deleted $$;
