-- Closes faults of the shipped product that need a change of tables, one part for each fault.

-- An older message never removes the trace of a newer one that was refused: a refused record keeps its version, and
-- ends with a later write by anyone, or when a person waives it.
ALTER TABLE revector.rejected
  ADD COLUMN external_version bigint,
  ADD COLUMN waived_by text CHECK (waived_by <> ''), ADD COLUMN waived_why text CHECK (waived_why <> ''),
  ADD COLUMN waived_at timestamptz,
  ADD CONSTRAINT a_waiver_has_a_name_and_a_reason CHECK (
    (waived_by IS NULL) = (waived_why IS NULL) AND (waived_by IS NULL) = (waived_at IS NULL));

CREATE VIEW revector.refused AS             -- records that nothing newer has answered; behind: an older text is served
  SELECT r.*, coalesce(NOT d.deleted, false) AS behind
  FROM revector.rejected r LEFT JOIN revector.document d USING (cid, doc_id)
  WHERE coalesce(r.external_version > d.external_version, true);

CREATE FUNCTION revector.document_answers_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    DELETE FROM revector.rejected r USING fresh f WHERE r.cid = f.cid AND r.doc_id = f.doc_id
      AND coalesce(f.external_version >= r.external_version, true);
  ELSE  -- a write without a version is a later one if it changes the content; a change of metadata answers nothing
    DELETE FROM revector.rejected r USING fresh f, stale s WHERE r.cid = f.cid AND r.doc_id = f.doc_id
      AND s.cid = f.cid AND s.doc_id = f.doc_id
      AND CASE WHEN f.external_version IS DISTINCT FROM s.external_version
          THEN coalesce(f.external_version >= r.external_version, true)
          ELSE f.content_hash IS DISTINCT FROM s.content_hash END;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER d_refused_insert AFTER INSERT ON revector.document REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();
CREATE TRIGGER d_refused_update AFTER UPDATE ON revector.document REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();
ALTER TABLE revector.document ENABLE ALWAYS TRIGGER d_refused_insert, ENABLE ALWAYS TRIGGER d_refused_update;

-- What the provider had cost when a generation was registered: the cap of its migration counts from there.
ALTER TABLE revector.generation ADD COLUMN spent jsonb NOT NULL DEFAULT '{}';
UPDATE revector.generation g SET spent = e.detail->'spent' FROM revector.event e
  WHERE (e.cid, e.gen, e.kind) = (g.cid, g.gen, 'provision') AND e.detail ? 'spent';

-- The history's chain, rule 2: every field carries its length, so that no two events have one hash. Links that were made
-- before keep the rule they were made by.
ALTER TABLE revector.event ADD COLUMN chain smallint NOT NULL DEFAULT 1 CHECK (chain IN (1, 2));

CREATE FUNCTION revector.framed(field text) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT coalesce(int4send(octet_length(convert_to(field, 'UTF8'))) || convert_to(field, 'UTF8'), int4send(-1)) $$;
CREATE OR REPLACE FUNCTION revector.event_hash(previous text, e revector.event) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT encode(sha256(CASE e.chain
    WHEN 1 THEN convert_to(concat_ws(E'\x1f', previous, e.cid, e.seq, extract(epoch FROM e.at), e.epoch, e.actor, e.kind,
      coalesce(e.gen::text, '-'), e.detail::text), 'UTF8')
    ELSE (SELECT string_agg(revector.framed(field), ''::bytea ORDER BY place) FROM unnest(ARRAY[e.chain::text, previous,
      e.cid::text, e.seq::text, extract(epoch FROM e.at)::text, e.epoch::text, e.actor, e.kind, e.gen::text,
      e.detail::text]) WITH ORDINALITY AS part(field, place)) END), 'hex') $$;
CREATE OR REPLACE FUNCTION revector.event_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last revector.event;
BEGIN
  -- The row that a control step holds, and only then the chain: the foreign key would ask for it last, and deadlock.
  PERFORM 1 FROM revector.collection WHERE cid = NEW.cid FOR KEY SHARE;
  PERFORM pg_advisory_xact_lock(1919252069, NEW.cid);
  SELECT * INTO last FROM revector.event WHERE cid = NEW.cid ORDER BY seq DESC LIMIT 1;
  NEW.seq := coalesce(last.seq, 0) + 1;
  NEW.at := clock_timestamp();
  NEW.chain := 2;
  NEW.hash := revector.event_hash(coalesce(last.hash, ''), NEW);
  RETURN NEW;
END $$;

-- What only the owner of the tables may do, for an application whose role does not own them (grants.sql).
CREATE FUNCTION revector.ledger_make(of_gen int, parts int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  vacuum CONSTANT text := 'WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, '
    'autovacuum_vacuum_insert_scale_factor = 0.05)';  -- a fifth, PostgreSQL's own share, is 200 million of a billion
BEGIN
  IF parts <= 1 THEN
    EXECUTE format('CREATE TABLE revector.ledger_g%s (LIKE revector.ledger INCLUDING ALL) %s', of_gen, vacuum);
  ELSE
    EXECUTE format('CREATE TABLE revector.ledger_g%s (LIKE revector.ledger INCLUDING ALL) PARTITION BY HASH (doc_id)', of_gen);
    FOR part IN 0 .. parts - 1 LOOP
      EXECUTE format('CREATE TABLE revector.ledger_g%1$s_h%2$s PARTITION OF revector.ledger_g%1$s FOR VALUES WITH (MODULUS '
        '%3$s, REMAINDER %2$s) %4$s', of_gen, part, parts, vacuum);
    END LOOP;
  END IF;
  EXECUTE format('CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.ledger_g%s FOR EACH STATEMENT EXECUTE '
    'FUNCTION revector.not_by_hand()', of_gen);
  -- Attached, not created in place: that would need the whole ledger for itself.
  EXECUTE format('ALTER TABLE revector.ledger ATTACH PARTITION revector.ledger_g%1$s FOR VALUES IN (%1$s)', of_gen);
END $$;
CREATE FUNCTION revector.ledger_drop(of_gen int, wait_ms int) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN  -- false: somebody reads or writes it for longer than wait_ms
  IF NOT EXISTS (SELECT 1 FROM revector.generation WHERE gen = of_gen AND dropped) THEN
    RAISE EXCEPTION 'generation % is not dropped, and its ledger stays', of_gen;
  END IF;
  PERFORM set_config('lock_timeout', wait_ms::text, true);
  EXECUTE format('DROP TABLE IF EXISTS revector.ledger_g%s', of_gen);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN RETURN false;
END $$;
CREATE FUNCTION revector.analyze_table(name regclass, skip_locked boolean) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN EXECUTE format('ANALYZE (SKIP_LOCKED %s) %s', skip_locked::text, name); END $$;
REVOKE EXECUTE ON FUNCTION revector.ledger_make, revector.ledger_drop, revector.analyze_table FROM PUBLIC;

-- Deleting by hand is refused. Records that other records depend on are never deleted. Rows of indexes, and of the work on
-- them, are deleted only in sessions of revector, which identify themselves (database/sessions.py).
CREATE FUNCTION revector.not_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('revector_session.own', true) IS DISTINCT FROM 'on' THEN
    RAISE EXCEPTION '% on revector.% is not allowed by hand, as the index would no longer be what its records say: write to '
      'revector.document instead (or restart this process, if it is a revector of before schema version 0007)', TG_OP,
      TG_TABLE_NAME;
  END IF;
  RETURN NULL;
END $$;

DO $$ DECLARE name text; BEGIN
  FOREACH name IN ARRAY ARRAY['collection', 'generation', 'gate_result', 'canary', 'spending', 'api_key', 'lease',
                              'schema_version'] LOOP
    IF to_regclass('revector.' || name) IS NOT NULL THEN  -- a rehearsal has no schema_version
      EXECUTE format('CREATE TRIGGER kept BEFORE DELETE ON revector.%I FOR EACH ROW EXECUTE FUNCTION '
        'revector.refuse(''other records depend on these rows'')', name);
    END IF;
  END LOOP;
  FOREACH name IN ARRAY ARRAY['collection', 'generation', 'gate_result', 'gate_override', 'canary', 'spending', 'api_key',
                              'lease', 'schema_version', 'rejected'] LOOP
    IF to_regclass('revector.' || name) IS NOT NULL THEN
      EXECUTE format('CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.%I FOR EACH STATEMENT EXECUTE FUNCTION '
        'revector.refuse(''other records depend on these rows'')', name);
    END IF;
  END LOOP;
  FOR name IN SELECT unnest(ARRAY['ledger', 'pending', 'shard', 'part', 'archived', 'waiver', 'shadow_read'])
              UNION ALL SELECT physical_name FROM revector.generation WHERE NOT dropped
              UNION ALL SELECT 'ledger_g' || gen FROM revector.generation WHERE NOT dropped LOOP
    IF to_regclass('revector.' || quote_ident(name)) IS NOT NULL THEN
      EXECUTE format('CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.%I FOR EACH STATEMENT EXECUTE '
        'FUNCTION revector.not_by_hand()', name);
    END IF;
  END LOOP;
END $$;
