-- Writes by functions: put and delete store what Documents.put and delete would, in the caller's transaction. They are
-- SECURITY DEFINER for the reason that 0009_search.sql gives.

-- ftfy's sign of text that was decoded wrongly, in PostgreSQL's spelling. Only Python can fix it. A test compares the two.
CREATE FUNCTION revector.mojibake() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT format(
    '[%1$s]'
    '|[%2$s%10$s%9$s%13$s%5$s%6$s%4$s%7$s%3$s][%2$s]'
    '|[a-zA-Z][%12$s%11$s][%2$s]'
    '|[%2$s][%10$s%9$s%13$s%5$s%6$s%4$s%7$s%3$s]'
    '|[%10$s%12$s%13$s%6$s%4$s%7$s][%9$s]'
    '|[%13$s%6$s%4$s%7$s][%10$s]'
    '|[%10$s%13$s%6$s][%4$s]'
    '|[%15$s][%9$s][%4$s]'
    '|[%9$s%13$s][%7$s%3$s]'
    '|[%10$s%9$s%13$s%4$s%6$s][%5$s][%7$s]'
    '|[%10$s%9$s%4$s%7$s%13$s%3$s][%6$s][%5$s]'
    '|[%4$s%7$s%13$s][%5$s]'
    '|[a-z][%9$s][%5$s%4$s]'
    '|[%13$s][%8$s]'
    '|[%10$s%9$s%4$s%7$s%5$s%6$s%3$s][%13$s]'
    '|[%13$s][%6$s]'
    '|[%10$s%9$s][%5$s%6$s][%16$s]'
    '|[\u0152\u0153][^A-Za-z]'
    '|[%9$s]\u00b0'
    '|[\u00c2\u00c3\u00ce\u00d0][\u20ac\u0153\u0160\u0161\u00a2\u00a3\u0178\u017e\u00a0\u00ad\u00ae\u00a9'
    '\u00b0\u00b7\u00bb%5$s%6$s\u2013\u2014\u00b4]'
    '|\u00d7[\u00b2\u00b3]'
    '|[\u00d8\u00d9][%14$s%4$s%2$s%7$s%5$s\u0178\u0160\u00ae\u00b0\u00b5\u00bb][\u00d8\u00d9][%14$s%4$s%2$s'
    '%7$s%5$s\u0178\u0160\u00ae\u00b0\u00b5\u00bb]'
    '|\u00e0[\u00b2\u00b5\u00b9\u00bc\u00bd\u00be]'
    '|\u221a[\u00b1\u2202\u2020\u2260\u00ae\u2122\u00b4\u2264\u2265\u00a5\u00b5\u00f8]'
    '|\u2248[\u00b0\u00a2]'
    '|\u201a\u00c4[\u00ec\u00ee\u00ef\u00f2\u00f4\u00fa\u00f9\u00fb\u2020\u00b0\u00a2\u03c0]'
    '|\u201a[\u00e2\u00f3][\u00e0\u00e4\u00b0\u00ea]'
    '|\u0432\u0402'
    '|[\u0412\u0413\u0420\u0421][%1$s%2$s%5$s%6$s%4$s\u00b0\u00b5][\u0412\u0413\u0420\u0421]'
    '|\u0413\u045e\u0412\u0402\u0412.[A-Za-z ]'
    '|\u00c3[\u00a0\u00a1]'
    '|[a-z][%15$s]?[\u00c3\u00c2][ ]'
    '|(?:^|\n)[\u00c3\u00c2][ ]'
    '|[a-z.,?!%6$s]\u00c2[ %5$s%6$s]'
    '|\u03b2\u20ac[\u2122\u00a0\u0386\u00ad\u00ae\u00b0]'
    '|[\u0392\u0393\u039e\u039f][%1$s%2$s%5$s%6$s%4$s\u00b0][\u0392\u0393\u039e\u039f]'
    '|\u0101\u20ac',
    '\u0080-\u009f',  -- C1 controls
    '\u00a6\u00a4\u00a8\u00ac\u00af\u00b8\u0192\u02c6\u02c7\u02d8\u02db\u02dc\u2020\u2021\u2030\u2310\u25ca'
    '\ufffd\u00aa\u00ba',  -- hardly anywhere else
    '\u00b6\u00a7',  -- law
    '\u00a2\u00a3\u00a5\u20a7\u20ac',  -- currency
    '\u00a1\u00ab\u00bf\u00a9\u0384\u0385\u2018\u201a\u201c\u201e\u2022\u2039\uf8ff',  -- opening punctuation
    '\u00ae\u00bb\u02dd\u201d\u203a\u2122',  -- closing punctuation
    '\u00b2\u00b3\u00b9\u00b1\u00bc\u00bd\u00be\u00d7\u00b5\u00f7\u2044\u2202\u2206\u220f\u2211\u221a\u221e'
    '\u2229\u222b\u2248\u2260\u2261\u2264\u2265\u2116',  -- numeric
    '\u00d2-\u00d6\u00d9-\u00dc\u00f2-\u00f6\u00f8-\u00fc\u0150\u014c\u016a\u0172\u00b0',  -- faces
    '\u00c0-\u00d1\u00d8\u00dc\u00dd\u0102\u0100\u0104\u0106\u010c\u010e\u0110\u0118\u011a\u0112\u0116\u011e'
    '\u0122\u0130\u012a\u0136\u0139\u013d\u0141\u013b\u0143\u0147\u0145\u0152\u0158\u015a\u015e\u0160\u0162'
    '\u0164\u016e\u0170\u0178\u0179\u017b\u017d\u0490',  -- upper, accented
    '\u00df\u00e0-\u00f1\u0103\u0105\u0101\u0107\u010d\u010f\u0111\u0119\u011b\u0113\u0117\u011f\u0123\u012f'
    '\u012b\u0137\u013a\u013e\u0142\u013c\u0153\u0155\u015b\u015f\u0161\u0165\u00fc\u017a\u017c\u017e\u0491'
    '\ufb01\ufb02',  -- lower, accented
    '\u00de\u0391-\u03a9\u0386\u0388\u0389\u038a\u038c\u038e\u038f\u03aa\u03ab\u0401-\u042f',  -- upper, common
    '\u03b1-\u03c9\u03ac\u03ad\u03ae\u03af\u03b0\u0430-\u045f',  -- lower, common
    '\u2502\u250c\u2510\u2518\u251c\u2524\u252c\u253c\u2550-\u256c\u2580\u2584\u2588\u258c\u2590\u2591\u2592'
    '\u2593',  -- boxes
    '\u00a0\u00ad\u00b7\u00b4\u2013\u2014\u2015\u2026\u2019',  -- common
    '\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000',  -- white space
    '0-9A-Za-z_\u00aa\u00b2\u00b3\u00b5\u00b9\u00ba\u00bc-\u00be\u00c0-\u1fff\u2070-\u2fff\u3004-\U0010ffff'  -- letters, and more
    ) $$;

-- The text as Documents.put would store it, or an error where that is not this text with other line breaks.
CREATE FUNCTION revector.storable_text(given text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  fixed text; lone text;
  unseen CONSTANT text := '\u0001-\u0020\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e'
    '\u2000-\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f'
    '\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f';
  damage CONSTANT text := '\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff' || (SELECT string_agg(chr(n * 65536 + 65534)
    || chr(n * 65536 + 65535), '') FROM generate_series(1, 14) n) || '\U000efffe-\U0010ffff';
BEGIN
  IF octet_length(given) > 4194304 THEN
    PERFORM revector.text_refused(format('takes %s bytes, allowed are 4 MiB', octet_length(given)), 'Split it into several.');
  ELSIF given !~ '[^\t\n\x20-\x7e]|&' AND given ~ '[^\t\n ]' THEN
    RETURN given;
  END IF;
  fixed := translate(replace(given, E'\r\n', E'\n'), E'\r\u2028\u2029', E'\n\n\n');
  IF given COLLATE "C" ~ ('[\u0001-\u0008\u000b\u000e-\u001f\u007f-\u009f\u206a-\u206f\ufeff\ufff9-\ufffc\ufffe]|'
      '^(?:\u00ff\u00fe|\u00fe\u00ff)') THEN
    PERFORM revector.text_unfixed('holds control characters or a byte order mark');
  ELSIF given COLLATE "C" ~ '&#?[0-9A-Za-z]{1,24};' THEN
    PERFORM revector.text_unfixed('holds entities of HTML, such as ' || substring(given FROM '&#?[0-9A-Za-z]{1,24};'));
  ELSIF fixed COLLATE "C" ~ revector.mojibake() THEN
    PERFORM revector.text_unfixed(format('looks as if it had been decoded wrongly, at "%s"', substring(fixed COLLATE "C"
      FROM '.{0,8}(?:' || revector.mojibake() || ').{0,8}')));
  ELSIF given IS NULL OR fixed COLLATE "C" !~ ('[^' || unseen || damage || ']') THEN
    PERFORM revector.text_refused('has no visible characters', 'Hand over its text, or delete the document: revector.delete.');
  ELSIF fixed COLLATE "C" ~ ('[' || damage || ']')
      AND length(regexp_replace(fixed COLLATE "C", '[^' || damage || ']', '', 'g')) > 0.1 * length(fixed) THEN
    PERFORM revector.text_refused('is damaged: over 10 % of it are private-use or replacement characters',
      'Decode its source again with the right encoding.');
  ELSIF length(regexp_replace(given COLLATE "C", '[\u0001-\u00ff]', '', 'g')) > 0.75 * length(given) THEN
    -- ASCII in the wrong byte order is U+xx00 throughout.
    SELECT regexp_replace(given COLLATE "C", '[^' || string_agg(chr(n * 256), '') || ']', '', 'g') INTO lone
      FROM generate_series(1, 255) n WHERE n NOT BETWEEN 216 AND 223;
    IF length(lone) > 0.75 * length(given) AND (SELECT count(DISTINCT c) FROM string_to_table(lone, NULL) c) >= 3 THEN
      PERFORM revector.text_unfixed('looks like UTF-16 in the wrong byte order');
    END IF;
  END IF;
  RETURN fixed;
END $$;

CREATE FUNCTION revector.text_refused(said text, way text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the text %. The document was not stored.', said USING ERRCODE = 'RV008', HINT = way; END $$;
CREATE FUNCTION revector.text_unfixed(said text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the text %, which SQL cannot fix. The document was not stored.', said
    USING ERRCODE = 'RV009', HINT = 'Send it well decoded, or write it by Documents.put in Python or over HTTP, which fix such text.';
END $$;

-- One write, as documents/writing.py does it; content NULL deletes. outcome: written, deleted, unchanged, or older (a newer
-- message is stored, or the same version with other content).
CREATE FUNCTION revector.write_document(collection text, id text, content text, meta jsonb, version bigint,
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

CREATE FUNCTION revector.put(collection text, id text, text text, meta jsonb DEFAULT '{}', version bigint DEFAULT NULL,
                             OUT stored_version bigint, OUT outcome text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT * INTO stored_version, outcome FROM revector.write_document(collection, id, revector.storable_text(text), meta, version);
END $$;
CREATE FUNCTION revector.delete(collection text, id text, version bigint DEFAULT NULL, OUT stored_version bigint, OUT outcome text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT * INTO stored_version, outcome FROM revector.write_document(collection, id, NULL, NULL, version);
END $$;

REVOKE EXECUTE ON FUNCTION revector.put, revector.delete FROM PUBLIC;
