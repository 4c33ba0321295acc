-- The seeded bugs that are functions of the database: whole bodies, each in place of the sound one, which is named by
-- its MD5. A bug whose sound body has changed is refused: it must be written again from what is there.

-- no_gate in place of document_before 5c2f88e615fea84421e1239053c32dbe: neither lock is taken
CREATE OR REPLACE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.image := CASE WHEN NOT NEW.deleted THEN NEW.image END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')
    || CASE WHEN NEW.image IS NULL THEN '' ELSE '\x00'::bytea || convert_to(NEW.image, 'UTF8') END), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- advisory_gate_only in place of document_before 5c2f88e615fea84421e1239053c32dbe: an old snapshot does not meet the row
CREATE OR REPLACE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1919252067, NEW.cid);
  NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.image := CASE WHEN NOT NEW.deleted THEN NEW.image END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')
    || CASE WHEN NEW.image IS NULL THEN '' ELSE '\x00'::bytea || convert_to(NEW.image, 'UTF8') END), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- row_gate_only in place of document_before 5c2f88e615fea84421e1239053c32dbe: a row's shared lock lets writers overtake who waits for it
CREATE OR REPLACE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR SHARE;
  NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.image := CASE WHEN NOT NEW.deleted THEN NEW.image END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')
    || CASE WHEN NEW.image IS NULL THEN '' ELSE '\x00'::bytea || convert_to(NEW.image, 'UTF8') END), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- version_before_lock in place of document_before 5c2f88e615fea84421e1239053c32dbe: an upsert that meets a row keeps what it drew before
CREATE OR REPLACE FUNCTION revector.document_before() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE mine text := concat_ws(' ', txid_current(), NEW.cid, NEW.doc_id);
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1919252067, NEW.cid);
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR SHARE;
  END IF;
  IF TG_OP = 'UPDATE' AND current_setting('mistake.of', true) = mine THEN
    NEW.version := current_setting('mistake.drawn')::bigint;
  ELSE
    NEW.version := greatest(nextval('revector.version_seq'), CASE WHEN TG_OP = 'UPDATE' THEN OLD.version + 1 ELSE 0 END);
  END IF;
  PERFORM set_config('mistake.of', CASE WHEN TG_OP = 'INSERT' THEN mine ELSE '' END, true),
    set_config('mistake.drawn', NEW.version::text, true);
  NEW.tombstone_version := CASE WHEN NEW.deleted THEN NEW.version WHEN TG_OP = 'UPDATE' THEN OLD.tombstone_version ELSE 0 END;
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.image := CASE WHEN NOT NEW.deleted THEN NEW.image END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')
    || CASE WHEN NEW.image IS NULL THEN '' ELSE '\x00'::bytea || convert_to(NEW.image, 'UTF8') END), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- standby_not_fed in place of document_fan_out e6e27db3f7da5adab44bca15e3ca76d9: the standby generation gets no work
CREATE OR REPLACE FUNCTION revector.document_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM fresh) THEN RETURN NULL; END IF;
  INSERT INTO revector.pending AS p (gen, doc_id, version)
    SELECT s.gen, f.doc_id, f.version
    FROM fresh f JOIN revector.collection c ON c.cid = f.cid,
         LATERAL (VALUES (c.active_gen), (c.building_gen)) s(gen)
    WHERE s.gen IS NOT NULL ORDER BY s.gen, f.doc_id
  ON CONFLICT (gen, doc_id) DO UPDATE
    SET version = EXCLUDED.version, lane = 'live', state = 'due', attempts = 0, due_at = clock_timestamp(),
        since = CASE WHEN p.lane = 'live' AND p.state = 'due' THEN p.since ELSE clock_timestamp() END,
        lease_until = NULL, lease_token = NULL, last_error = NULL
    WHERE p.version < EXCLUDED.version;
  RETURN NULL;
END $$;
