-- The protocol's tables, triggers and invariant views. Lock order everywhere:
-- collection → document → generation → pending → ledger.

CREATE TABLE revector.collection (          -- alias row, gate and write set in one
  cid int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_]{0,30}$'),
  epoch bigint NOT NULL DEFAULT 1,          -- +1 in every control transaction
  active_gen int, standby_gen int, building_gen int,
  rollback_deadline timestamptz,
  protocol_version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT slots_are_distinct CHECK (
    active_gen IS DISTINCT FROM standby_gen OR active_gen IS NULL),
  CONSTRAINT building_is_distinct CHECK (
    building_gen IS NULL OR (building_gen IS DISTINCT FROM active_gen AND building_gen IS DISTINCT FROM standby_gen)),
  CONSTRAINT standby_needs_active CHECK (standby_gen IS NULL OR active_gen IS NOT NULL),
  CONSTRAINT window_belongs_to_standby CHECK ((standby_gen IS NULL) = (rollback_deadline IS NULL)));

CREATE TABLE revector.generation (          -- one physical index + encoder + chunker + configuration
  gen int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  cid int NOT NULL REFERENCES revector.collection,
  revision text NOT NULL,
  physical_name text NOT NULL UNIQUE,
  spec jsonb NOT NULL,
  config_hash text NOT NULL, chunker_fp text NOT NULL, encoder_fp text NOT NULL,
  encoder jsonb NOT NULL,                   -- what went into encoder_fp, by name
  probes bytea NOT NULL,                    -- float32 vectors of the probe texts
  phase text NOT NULL CHECK (phase IN ('provisioned', 'backfilled', 'indexed', 'verified', 'gated', 'approved',
                                       'live', 'rolled_back', 'completed', 'retired', 'aborted')),
  live boolean NOT NULL DEFAULT true, dropped boolean NOT NULL DEFAULT false, seeded boolean NOT NULL DEFAULT false,
  window_hours double precision NOT NULL CHECK (window_hours > 0),
  needs_approval boolean NOT NULL,
  registered_at timestamptz NOT NULL DEFAULT clock_timestamp(), live_at timestamptz, ended_at timestamptz,
  UNIQUE (cid, gen),
  CONSTRAINT a_live_generation_is_not_dropped CHECK (NOT (live AND dropped)),
  CONSTRAINT ended_generations_are_not_live CHECK (live = (phase NOT IN ('retired', 'aborted'))));

ALTER TABLE revector.collection                                  -- a slot names a generation of its own collection
  ADD FOREIGN KEY (cid, active_gen) REFERENCES revector.generation (cid, gen),
  ADD FOREIGN KEY (cid, standby_gen) REFERENCES revector.generation (cid, gen),
  ADD FOREIGN KEY (cid, building_gen) REFERENCES revector.generation (cid, gen);

CREATE SEQUENCE revector.version_seq CACHE 1;
CREATE SEQUENCE revector.lease_seq CACHE 1;

CREATE TABLE revector.document (            -- what should be searchable; a delete is a tombstone
  cid int NOT NULL REFERENCES revector.collection,
  doc_id text COLLATE "C" NOT NULL CHECK (octet_length(doc_id) BETWEEN 1 AND 512),
  version bigint NOT NULL DEFAULT 0,
  deleted boolean NOT NULL DEFAULT false,
  tombstone_version bigint NOT NULL DEFAULT 0,                   -- version of the latest delete
  content text, content_hash text,
  meta jsonb NOT NULL DEFAULT '{}',
  external_version bigint,
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (cid, doc_id),
  CONSTRAINT a_tombstone_holds_no_content CHECK (deleted = (content IS NULL) AND deleted = (content_hash IS NULL)));
CREATE INDEX document_version ON revector.document (cid, version);
CREATE INDEX document_meta ON revector.document USING gin (meta jsonb_path_ops);

CREATE TABLE revector.pending (             -- the work set: "bring this document up to date there"; holds no content
  gen int NOT NULL, doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL,
  lane text NOT NULL DEFAULT 'live' CHECK (lane IN ('live', 'bulk')),
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'dead')),
  since timestamptz NOT NULL DEFAULT clock_timestamp(),          -- lag is counted from here
  due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts int NOT NULL DEFAULT 0,
  lease_token bigint, lease_until timestamptz, last_error text,
  PRIMARY KEY (gen, doc_id));
CREATE INDEX pending_due ON revector.pending (gen, lane, due_at) WHERE state = 'due';
CREATE INDEX pending_dead ON revector.pending (gen) WHERE state = 'dead';

CREATE TABLE revector.ledger (              -- what is visible, per generation and document
  gen int NOT NULL, doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL, deleted boolean NOT NULL,
  n_chunks int NOT NULL, content_hash text,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (gen, doc_id),
  CONSTRAINT a_tombstone_has_no_chunks CHECK (deleted = (n_chunks = 0) AND deleted = (content_hash IS NULL)));

CREATE TABLE revector.shard (               -- key ranges (lo, hi] of a backfill; hi NULL is the end
  gen int NOT NULL REFERENCES revector.generation, shard int NOT NULL,
  lo text COLLATE "C" NOT NULL, hi text COLLATE "C", cursor text COLLATE "C" NOT NULL,
  documents bigint NOT NULL,                -- counted when planned
  seeded boolean NOT NULL DEFAULT false, done boolean NOT NULL DEFAULT false,
  PRIMARY KEY (gen, shard), CHECK (hi > lo), CHECK (cursor >= lo), CHECK (seeded OR NOT done));

CREATE TABLE revector.part (                -- sealed HDF5 files of a shard
  gen int NOT NULL, shard int NOT NULL, part int NOT NULL,
  path text NOT NULL, sha256 text NOT NULL, documents int NOT NULL, chunks int NOT NULL,
  sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(), published_at timestamptz,
  PRIMARY KEY (gen, shard, part), FOREIGN KEY (gen, shard) REFERENCES revector.shard);

CREATE TABLE revector.rejected (            -- records that ingestion refused, with the reason
  cid int NOT NULL REFERENCES revector.collection, doc_id text COLLATE "C" NOT NULL,
  source text NOT NULL, reason text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (cid, doc_id));

CREATE TABLE revector.waiver (              -- dead letters that a person accepts; a new version voids it
  gen int NOT NULL, doc_id text COLLATE "C" NOT NULL, version bigint NOT NULL,
  who text NOT NULL CHECK (who <> ''), why text NOT NULL CHECK (why <> ''),
  at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (gen, doc_id, version));

CREATE TABLE revector.lease (               -- fencing: the newest token of a collection's run
  cid int PRIMARY KEY REFERENCES revector.collection, token bigint NOT NULL DEFAULT 0, owner text NOT NULL,
  taken_at timestamptz NOT NULL DEFAULT clock_timestamp());

CREATE TABLE revector.gate_result (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  gen int NOT NULL REFERENCES revector.generation, config_hash text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('verify', 'recall')), passed boolean NOT NULL,
  detail jsonb NOT NULL, changes_seen bigint NOT NULL, token bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX gate_result_gen ON revector.gate_result (gen, kind, id);

CREATE TABLE revector.event (               -- append-only history, hash-chained per collection
  cid int NOT NULL REFERENCES revector.collection, seq bigint NOT NULL,
  at timestamptz NOT NULL, epoch bigint NOT NULL, actor text NOT NULL CHECK (actor <> ''),
  kind text NOT NULL, gen int, detail jsonb NOT NULL, hash text NOT NULL,
  PRIMARY KEY (cid, seq));

-- Write path ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- The advisory lock queues fairly, so that a waiting swap is not overtaken for ever; the row lock makes a
  -- REPEATABLE READ writer with an older write set fail (40001) instead of missing a generation. Both are needed.
  PERFORM pg_advisory_xact_lock_shared(1919252067, NEW.cid);
  PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR SHARE;
  -- Under the row lock, so that versions rise in commit order.
  NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  -- Whoever writes: a tombstone holds no content, and the hash is the content's own, for workers trust it.
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

CREATE FUNCTION revector.document_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO revector.pending AS p (gen, doc_id, version)
    SELECT s.gen, f.doc_id, f.version
    FROM fresh f JOIN revector.collection c ON c.cid = f.cid,
         LATERAL (VALUES (c.active_gen), (c.standby_gen), (c.building_gen)) s(gen)
    WHERE s.gen IS NOT NULL ORDER BY s.gen, f.doc_id
  ON CONFLICT (gen, doc_id) DO UPDATE
    SET version = EXCLUDED.version, lane = 'live', state = 'due', attempts = 0, due_at = clock_timestamp(),
        since = CASE WHEN p.lane = 'live' AND p.state = 'due' THEN p.since ELSE clock_timestamp() END,
        lease_until = NULL, lease_token = NULL, last_error = NULL
    WHERE p.version < EXCLUDED.version;
  RETURN NULL;
END $$;

CREATE FUNCTION revector.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% on revector.% is not allowed: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]; END $$;

CREATE TRIGGER a_version BEFORE INSERT OR UPDATE ON revector.document FOR EACH ROW EXECUTE FUNCTION revector.document_before();
CREATE TRIGGER b_fan_out_insert AFTER INSERT ON revector.document REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_fan_out();
CREATE TRIGGER b_fan_out_update AFTER UPDATE ON revector.document REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_fan_out();
CREATE TRIGGER c_tombstones BEFORE DELETE ON revector.document FOR EACH STATEMENT
  EXECUTE FUNCTION revector.refuse('set deleted = true, so that every index learns of it');
CREATE TRIGGER c_truncate BEFORE TRUNCATE ON revector.document FOR EACH STATEMENT
  EXECUTE FUNCTION revector.refuse('set deleted = true, so that every index learns of it');
CREATE TRIGGER ids_are_identity BEFORE UPDATE ON revector.document FOR EACH ROW
  WHEN (OLD.doc_id IS DISTINCT FROM NEW.doc_id OR OLD.cid IS DISTINCT FROM NEW.cid)
  EXECUTE FUNCTION revector.refuse('an id never changes; delete and put');
CREATE TRIGGER only_forward BEFORE UPDATE ON revector.ledger FOR EACH ROW WHEN (NEW.version < OLD.version)
  EXECUTE FUNCTION revector.refuse('an older version never replaces a newer one');
CREATE TRIGGER immutable BEFORE UPDATE ON revector.generation FOR EACH ROW
  WHEN ((OLD.cid, OLD.revision, OLD.physical_name, OLD.spec, OLD.config_hash, OLD.chunker_fp, OLD.encoder_fp, OLD.probes)
        IS DISTINCT FROM
        (NEW.cid, NEW.revision, NEW.physical_name, NEW.spec, NEW.config_hash, NEW.chunker_fp, NEW.encoder_fp, NEW.probes)
        OR (OLD.seeded AND NOT NEW.seeded) OR (OLD.dropped AND NOT NEW.dropped) OR (NEW.live AND NOT OLD.live))
  EXECUTE FUNCTION revector.refuse('a generation is immutable once registered');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON revector.event FOR EACH ROW
  EXECUTE FUNCTION revector.refuse('history is append-only');
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON revector.event FOR EACH STATEMENT
  EXECUTE FUNCTION revector.refuse('history is append-only');

CREATE FUNCTION revector.slots_are_served() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN  -- I5, as far as a row can see it: active and standby are seeded and live, building is live
  IF EXISTS (SELECT 1 FROM revector.generation g
             WHERE g.gen IN (NEW.active_gen, NEW.standby_gen) AND NOT (g.live AND g.seeded)
                OR g.gen = NEW.building_gen AND NOT g.live) THEN
    RAISE EXCEPTION 'a slot of collection % names a generation that is not live and complete', NEW.name;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER slots BEFORE UPDATE ON revector.collection FOR EACH ROW EXECUTE FUNCTION revector.slots_are_served();

CREATE FUNCTION revector.event_hash(previous text, e revector.event) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT encode(sha256(convert_to(concat_ws(E'\x1f', previous, e.cid, e.seq, extract(epoch FROM e.at), e.epoch, e.actor,
    e.kind, coalesce(e.gen::text, '-'), e.detail::text), 'UTF8')), 'hex') $$;
CREATE FUNCTION revector.event_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last revector.event;
BEGIN
  PERFORM pg_advisory_xact_lock(1919252069, NEW.cid);
  SELECT * INTO last FROM revector.event WHERE cid = NEW.cid ORDER BY seq DESC LIMIT 1;
  NEW.seq := coalesce(last.seq, 0) + 1;
  NEW.at := clock_timestamp();
  NEW.hash := revector.event_hash(coalesce(last.hash, ''), NEW);
  RETURN NEW;
END $$;
CREATE TRIGGER chain BEFORE INSERT ON revector.event FOR EACH ROW EXECUTE FUNCTION revector.event_chain();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER a_version, ENABLE ALWAYS TRIGGER b_fan_out_insert,
  ENABLE ALWAYS TRIGGER b_fan_out_update, ENABLE ALWAYS TRIGGER c_tombstones, ENABLE ALWAYS TRIGGER c_truncate,
  ENABLE ALWAYS TRIGGER ids_are_identity;

-- Invariants: each view is empty at every instant --------------------------------------------------------------------

CREATE VIEW revector.slot AS
  SELECT c.cid, s.gen, s.role FROM revector.collection c,
    LATERAL (VALUES (c.active_gen, 'active'), (c.standby_gen, 'standby'), (c.building_gen, 'building')) s(gen, role)
  WHERE s.gen IS NOT NULL;

CREATE VIEW revector.i1_lost AS             -- a live, seeded generation lacks a document, and no item waits for it
  SELECT s.gen, d.doc_id, d.version
  FROM revector.slot s JOIN revector.generation g USING (gen) JOIN revector.document d ON d.cid = s.cid
  LEFT JOIN revector.ledger l ON l.gen = s.gen AND l.doc_id = d.doc_id
  LEFT JOIN revector.pending p ON p.gen = s.gen AND p.doc_id = d.doc_id AND p.version >= d.version
  WHERE g.seeded AND p.gen IS NULL AND l.version IS DISTINCT FROM d.version AND NOT (d.deleted AND coalesce(l.deleted, true));

CREATE VIEW revector.i2_ahead AS            -- nothing comes from the future
  SELECT l.gen, l.doc_id FROM revector.ledger l JOIN revector.generation g USING (gen)
    JOIN revector.document d ON d.cid = g.cid AND d.doc_id = l.doc_id WHERE l.version > d.version
  UNION ALL
  SELECT p.gen, p.doc_id FROM revector.pending p JOIN revector.generation g USING (gen)
    JOIN revector.document d ON d.cid = g.cid AND d.doc_id = p.doc_id WHERE p.version > d.version;

CREATE VIEW revector.i5_slots AS            -- slots name live, complete generations of their own collection
  SELECT s.* FROM revector.slot s JOIN revector.generation g USING (gen)
  WHERE NOT g.live OR g.dropped OR g.cid <> s.cid OR (s.role <> 'building' AND NOT g.seeded);

CREATE VIEW revector.i13_unwaived AS        -- no dead letter in the active generation that nobody accepted, unless it
  SELECT p.gen, p.doc_id, p.version         -- died after the swap
  FROM revector.pending p JOIN revector.slot s ON s.gen = p.gen AND s.role = 'active'
    JOIN revector.generation g ON g.gen = p.gen
  WHERE p.state = 'dead' AND p.since < g.live_at
    AND NOT EXISTS (SELECT 1 FROM revector.waiver w WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version));
