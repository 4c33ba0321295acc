-- The gate's row lock only where it is needed: sharing one row lock costs every writer a multixact (measured: a third of
-- the write rate), and a READ COMMITTED writer reads the slots anew after the advisory lock anyway.

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
  -- Whoever writes: a tombstone holds no content, and the hash is the content's own, for workers trust it.
  NEW.content := CASE WHEN NOT NEW.deleted THEN NEW.content END;
  NEW.content_hash := encode(sha256(convert_to(NEW.content, 'UTF8')), 'hex');
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION revector.event_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last revector.event;
BEGIN
  -- The row that a control step holds, and only then the chain: the foreign key would ask for it last, and deadlock.
  PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR KEY SHARE;
  PERFORM pg_advisory_xact_lock(1919252069, NEW.cid);
  SELECT * INTO last FROM revector.event WHERE cid = NEW.cid ORDER BY seq DESC LIMIT 1;
  NEW.seq := coalesce(last.seq, 0) + 1;
  NEW.at := clock_timestamp();
  NEW.hash := revector.event_hash(coalesce(last.hash, ''), NEW);
  RETURN NEW;
END $$;
