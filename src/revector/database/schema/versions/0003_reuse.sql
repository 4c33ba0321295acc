-- What lets embeddings be used again (by fingerprint and content), how faithful a model runs, and what providers cost.

ALTER TABLE revector.generation
  ADD COLUMN vectors_fp text NOT NULL DEFAULT '',      -- encoder_fp without the width where a cut is a prefix; '' unknown
  ADD COLUMN fidelity jsonb NOT NULL DEFAULT '{}';     -- the encoder as it runs against float32, when registered
CREATE INDEX generation_vectors ON revector.generation (vectors_fp, chunker_fp) WHERE NOT dropped;
CREATE TRIGGER measured_once BEFORE UPDATE ON revector.generation FOR EACH ROW
  WHEN ((OLD.vectors_fp, OLD.fidelity) IS DISTINCT FROM (NEW.vectors_fp, NEW.fidelity))
  EXECUTE FUNCTION revector.refuse('a generation is immutable once registered');

CREATE INDEX ledger_content ON revector.ledger (content_hash, gen) WHERE NOT deleted;

ALTER TABLE revector.part ADD COLUMN first_id text COLLATE "C", ADD COLUMN last_id text COLLATE "C";

CREATE TABLE revector.archived (            -- sealed files beyond their generation: kept when it was dropped, or imported
  path text PRIMARY KEY, sha256 text NOT NULL,
  cid int NOT NULL REFERENCES revector.collection,
  gen int REFERENCES revector.generation,   -- that it was made for; NULL for an imported one
  vectors_fp text NOT NULL CHECK (vectors_fp <> ''), chunker_fp text NOT NULL, dim int NOT NULL CHECK (dim > 0),
  first_id text COLLATE "C" NOT NULL, last_id text COLLATE "C" NOT NULL, CHECK (first_id <= last_id),
  documents int NOT NULL, chunks int NOT NULL,
  why text NOT NULL CHECK (why IN ('kept', 'imported')), CHECK ((why = 'imported') = (gen IS NULL)), at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX archived_vectors ON revector.archived (cid, vectors_fp, chunker_fp, first_id);

CREATE TABLE revector.spending (            -- what API providers were paid, by day (UTC); caps are checked against it
  provider text NOT NULL, day date NOT NULL,
  tokens bigint NOT NULL, requests bigint NOT NULL, usd double precision NOT NULL,  -- below 0: estimates put right
  PRIMARY KEY (provider, day));
