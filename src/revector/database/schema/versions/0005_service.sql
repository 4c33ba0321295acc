-- Keys of the HTTP service, the processes that serve and what they have loaded, and the load over time.

CREATE TABLE revector.api_key (             -- who may call `revector serve`; the key itself is nowhere
  key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{16}$'),
  name text NOT NULL CHECK (name <> ''),
  digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),         -- SHA-256 of a key of 256 random bits
  scopes text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'write', 'admin'] AND cardinality(scopes) > 0),
  collections text[] CHECK (cardinality(collections) > 0),                -- NULL: all
  made_by text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_by text, revoked_at timestamptz, CHECK ((revoked_by IS NULL) = (revoked_at IS NULL)));

CREATE TABLE revector.server (              -- one row per process that answers queries
  server_id uuid PRIMARY KEY, name text NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  warm int[] NOT NULL DEFAULT '{}',         -- generations whose encoder is loaded and proved
  problem text);                            -- why one of the live ones cannot be loaded

CREATE TABLE revector.load_sample (         -- queue depth and indexing lag, about once a minute
  cid int NOT NULL REFERENCES revector.collection, minute timestamptz NOT NULL,
  queued bigint NOT NULL CHECK (queued >= 0), lag_s double precision NOT NULL CHECK (lag_s >= 0),
  dead bigint NOT NULL CHECK (dead >= 0), documents bigint NOT NULL CHECK (documents >= 0),
  PRIMARY KEY (cid, minute));
