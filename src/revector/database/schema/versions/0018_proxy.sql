-- What models say in place of people: evidence of its own, apart from all labels. By texts, so that what changed is asked again.
CREATE TABLE revector.proxy_score (
  cid int NOT NULL REFERENCES revector.collection,
  judge text COLLATE "C" NOT NULL,          -- fingerprint of all that decides what it says
  query text COLLATE "C" NOT NULL CHECK (query ~ '^[0-9a-f]{64}$'),        -- SHA-256 of the text
  document text COLLATE "C" NOT NULL CHECK (document ~ '^[0-9a-f]{64}$'),  -- as document.content_hash
  score int CHECK (score BETWEEN 0 AND 2),
  refused text,                             -- what was answered instead of a score of the scale
  name text NOT NULL, model text NOT NULL, prompt text NOT NULL,
  answered_by text NOT NULL,                -- the model that says that it answered: a server may exchange it
  tokens_in int NOT NULL CHECK (tokens_in >= 0),
  tokens_out int NOT NULL CHECK (tokens_out >= 0),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (cid, judge, query, document),
  CONSTRAINT a_score_or_what_was_said CHECK (num_nonnulls(score, refused) = 1));
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON revector.proxy_score FOR EACH ROW
  EXECUTE FUNCTION revector.refuse('what a judge said is evidence');
CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.proxy_score FOR EACH STATEMENT
  EXECUTE FUNCTION revector.not_by_hand();
