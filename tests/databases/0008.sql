--
-- PostgreSQL database dump
--


-- Dumped from database version 18.4
-- Dumped by pg_dump version 18.4

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: revector; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA revector;


--
-- Name: vector; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;


--
-- Name: EXTENSION vector; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON EXTENSION vector IS 'vector data type and ivfflat and hnsw access methods';


--
-- Name: analyze_table(regclass, boolean); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.analyze_table(name regclass, skip_locked boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN EXECUTE format('ANALYZE (SKIP_LOCKED %s) %s', skip_locked::text, name); END $$;


--
-- Name: document_answers_refused(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.document_answers_refused() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: document_before(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.document_before() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: document_fan_out(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.document_fan_out() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: event_chain(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.event_chain() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: event; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.event (
    cid integer NOT NULL,
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    epoch bigint NOT NULL,
    actor text NOT NULL,
    kind text NOT NULL,
    gen integer,
    detail jsonb NOT NULL,
    hash text NOT NULL,
    chain smallint DEFAULT 1 NOT NULL,
    CONSTRAINT event_actor_check CHECK ((actor <> ''::text)),
    CONSTRAINT event_chain_check CHECK ((chain = ANY (ARRAY[1, 2])))
);


--
-- Name: event_hash(text, revector.event); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.event_hash(previous text, e revector.event) RETURNS text
    LANGUAGE sql STABLE
    AS $$
  SELECT encode(sha256(CASE e.chain
    WHEN 1 THEN convert_to(concat_ws(E'\x1f', previous, e.cid, e.seq, extract(epoch FROM e.at), e.epoch, e.actor, e.kind,
      coalesce(e.gen::text, '-'), e.detail::text), 'UTF8')
    ELSE (SELECT string_agg(revector.framed(field), ''::bytea ORDER BY place) FROM unnest(ARRAY[e.chain::text, previous,
      e.cid::text, e.seq::text, extract(epoch FROM e.at)::text, e.epoch::text, e.actor, e.kind, e.gen::text,
      e.detail::text]) WITH ORDINALITY AS part(field, place)) END), 'hex') $$;


--
-- Name: framed(text); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.framed(field text) RETURNS bytea
    LANGUAGE sql STABLE
    AS $$
  SELECT coalesce(int4send(octet_length(convert_to(field, 'UTF8'))) || convert_to(field, 'UTF8'), int4send(-1)) $$;


--
-- Name: intent_make(integer); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.intent_make(of_gen integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
  EXECUTE format('CREATE TABLE revector.intent_g%s (LIKE revector.intent INCLUDING ALL) WITH (autovacuum_vacuum_scale_factor '
    '= 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)', of_gen);
  EXECUTE format('CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.intent_g%s FOR EACH STATEMENT EXECUTE '
    'FUNCTION revector.not_by_hand()', of_gen);
  EXECUTE format('ALTER TABLE revector.intent ATTACH PARTITION revector.intent_g%1$s FOR VALUES IN (%1$s)', of_gen);
END $_$;


--
-- Name: ledger_drop(integer, integer); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.ledger_drop(of_gen integer, wait_ms integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN  -- false: someone reads or writes it for longer than wait_ms
  IF NOT EXISTS (SELECT 1 FROM revector.generation WHERE gen = of_gen AND dropped) THEN
    RAISE EXCEPTION 'generation % is not dropped, and its ledger stays', of_gen;
  END IF;
  PERFORM set_config('lock_timeout', wait_ms::text, true);
  EXECUTE format('DROP TABLE IF EXISTS revector.intent_g%s', of_gen);
  EXECUTE format('DROP TABLE IF EXISTS revector.ledger_g%s', of_gen);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN RETURN false;
END $$;


--
-- Name: ledger_make(integer, integer); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.ledger_make(of_gen integer, parts integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
END $_$;


--
-- Name: not_by_hand(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.not_by_hand() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF current_setting('revector_session.own', true) IS DISTINCT FROM 'on' THEN
    RAISE EXCEPTION '% on revector.% is not allowed by hand, as the index would no longer be what its records say: write to '
      'revector.document instead (or restart this process, if it is a revector of before schema version 0007)', TG_OP,
      TG_TABLE_NAME;
  END IF;
  RETURN NULL;
END $$;


--
-- Name: refuse(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN RAISE EXCEPTION '% on revector.% is not allowed: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]; END $$;


--
-- Name: slots_are_served(); Type: FUNCTION; Schema: revector; Owner: -
--

CREATE FUNCTION revector.slots_are_served() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE wanted text; result revector.gate_result;
BEGIN  -- I5, as far as a row can see it: active and standby are seeded and live, building is live
  IF EXISTS (SELECT 1 FROM revector.generation g
             WHERE g.gen IN (NEW.active_gen, NEW.standby_gen) AND NOT (g.live AND g.seeded)
                OR g.gen = NEW.building_gen AND NOT g.live) THEN
    RAISE EXCEPTION 'a slot of collection % names a generation that is not live and complete', NEW.name;
  END IF;
  IF NEW.active_gen = OLD.building_gen THEN  -- served for the first time: whoever moves the alias
    FOREACH wanted IN ARRAY ARRAY['verify', 'recall'] LOOP
      SELECT r.* INTO result FROM revector.gate_result r JOIN revector.generation g USING (gen, config_hash)
        WHERE r.gen = NEW.active_gen AND r.kind = wanted ORDER BY r.id DESC LIMIT 1;
      IF result.id IS NULL OR NOT result.passed AND (wanted = 'verify'
          OR NOT EXISTS (SELECT 1 FROM revector.gate_override o WHERE o.result_id = result.id)) THEN
        RAISE EXCEPTION 'generation % has no passed % result, and the alias of % stays', NEW.active_gen, wanted, NEW.name;
      END IF;
    END LOOP;
  END IF;
  RETURN NEW;
END $$;


--
-- Name: api_key; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.api_key (
    key_id text NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    collections text[],
    made_by text NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    revoked_by text,
    revoked_at timestamp with time zone,
    CONSTRAINT api_key_check CHECK (((revoked_by IS NULL) = (revoked_at IS NULL))),
    CONSTRAINT api_key_collections_check CHECK ((cardinality(collections) > 0)),
    CONSTRAINT api_key_digest_check CHECK ((octet_length(digest) = 32)),
    CONSTRAINT api_key_key_id_check CHECK ((key_id ~ '^[0-9a-f]{16}$'::text)),
    CONSTRAINT api_key_name_check CHECK ((name <> ''::text)),
    CONSTRAINT api_key_scopes_check CHECK (((scopes <@ ARRAY['read'::text, 'write'::text, 'admin'::text]) AND (cardinality(scopes) > 0)))
);


--
-- Name: archived; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.archived (
    path text NOT NULL,
    sha256 text NOT NULL,
    cid integer NOT NULL,
    gen integer,
    vectors_fp text NOT NULL,
    chunker_fp text NOT NULL,
    dim integer NOT NULL,
    first_id text NOT NULL COLLATE pg_catalog."C",
    last_id text NOT NULL COLLATE pg_catalog."C",
    documents integer NOT NULL,
    chunks integer NOT NULL,
    why text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT archived_check CHECK ((first_id <= last_id)),
    CONSTRAINT archived_check1 CHECK (((why = 'imported'::text) = (gen IS NULL))),
    CONSTRAINT archived_dim_check CHECK ((dim > 0)),
    CONSTRAINT archived_vectors_fp_check CHECK ((vectors_fp <> ''::text)),
    CONSTRAINT archived_why_check CHECK ((why = ANY (ARRAY['kept'::text, 'imported'::text])))
);


--
-- Name: canary; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.canary (
    cid integer NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    gen integer NOT NULL,
    labels text NOT NULL,
    labels_fp text NOT NULL,
    k integer NOT NULL,
    queries integer NOT NULL,
    recall double precision NOT NULL,
    baseline double precision NOT NULL,
    encoder_fault text,
    alerts jsonb DEFAULT '[]'::jsonb NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT canary_baseline_check CHECK (((baseline >= (0)::double precision) AND (baseline <= (1)::double precision))),
    CONSTRAINT canary_queries_check CHECK ((queries > 0)),
    CONSTRAINT canary_recall_check CHECK (((recall >= (0)::double precision) AND (recall <= (1)::double precision)))
);


--
-- Name: collection; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.collection (
    cid integer NOT NULL,
    name text NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    active_gen integer,
    standby_gen integer,
    building_gen integer,
    rollback_deadline timestamp with time zone,
    protocol_version integer DEFAULT 2 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT building_is_distinct CHECK (((building_gen IS NULL) OR ((building_gen IS DISTINCT FROM active_gen) AND (building_gen IS DISTINCT FROM standby_gen)))),
    CONSTRAINT collection_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,30}$'::text)),
    CONSTRAINT slots_are_distinct CHECK (((active_gen IS DISTINCT FROM standby_gen) OR (active_gen IS NULL))),
    CONSTRAINT standby_needs_active CHECK (((standby_gen IS NULL) OR (active_gen IS NOT NULL))),
    CONSTRAINT window_belongs_to_standby CHECK (((standby_gen IS NULL) = (rollback_deadline IS NULL)))
);


--
-- Name: collection_cid_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

ALTER TABLE revector.collection ALTER COLUMN cid ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME revector.collection_cid_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: document; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.document (
    cid integer NOT NULL,
    doc_id text NOT NULL COLLATE pg_catalog."C",
    version bigint DEFAULT 0 NOT NULL,
    deleted boolean DEFAULT false NOT NULL,
    tombstone_version bigint DEFAULT 0 NOT NULL,
    content text,
    content_hash text,
    meta jsonb DEFAULT '{}'::jsonb NOT NULL,
    external_version bigint,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT a_tombstone_holds_no_content CHECK (((deleted = (content IS NULL)) AND (deleted = (content_hash IS NULL)))),
    CONSTRAINT document_doc_id_check CHECK (((octet_length(doc_id) >= 1) AND (octet_length(doc_id) <= 512)))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.05');


--
-- Name: gate_override; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.gate_override (
    result_id bigint NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT gate_override_who_check CHECK ((who <> ''::text)),
    CONSTRAINT gate_override_why_check CHECK ((why <> ''::text))
);


--
-- Name: gate_result; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.gate_result (
    id bigint NOT NULL,
    gen integer NOT NULL,
    config_hash text NOT NULL,
    kind text NOT NULL,
    passed boolean NOT NULL,
    detail jsonb NOT NULL,
    changes_seen bigint NOT NULL,
    token bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    verdict text NOT NULL,
    CONSTRAINT a_verdict CHECK ((verdict = ANY (ARRAY['pass'::text, 'fail'::text, 'inconclusive'::text]))),
    CONSTRAINT gate_result_kind_check CHECK ((kind = ANY (ARRAY['verify'::text, 'recall'::text]))),
    CONSTRAINT only_a_pass_passed CHECK ((passed = (verdict = 'pass'::text)))
);


--
-- Name: gate_result_id_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

ALTER TABLE revector.gate_result ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME revector.gate_result_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: generation; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.generation (
    gen integer NOT NULL,
    cid integer NOT NULL,
    revision text NOT NULL,
    physical_name text NOT NULL,
    spec jsonb NOT NULL,
    config_hash text NOT NULL,
    chunker_fp text NOT NULL,
    encoder_fp text NOT NULL,
    encoder jsonb NOT NULL,
    probes bytea NOT NULL,
    phase text NOT NULL,
    live boolean DEFAULT true NOT NULL,
    dropped boolean DEFAULT false NOT NULL,
    seeded boolean DEFAULT false NOT NULL,
    window_hours double precision NOT NULL,
    needs_approval boolean NOT NULL,
    registered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    live_at timestamp with time zone,
    ended_at timestamp with time zone,
    vectors_fp text DEFAULT ''::text NOT NULL,
    fidelity jsonb DEFAULT '{}'::jsonb NOT NULL,
    spent jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT a_live_generation_is_not_dropped CHECK ((NOT (live AND dropped))),
    CONSTRAINT ended_generations_are_not_live CHECK ((live = (phase <> ALL (ARRAY['retired'::text, 'aborted'::text])))),
    CONSTRAINT generation_phase_check CHECK ((phase = ANY (ARRAY['provisioned'::text, 'backfilled'::text, 'indexed'::text, 'verified'::text, 'gated'::text, 'approved'::text, 'live'::text, 'rolled_back'::text, 'completed'::text, 'retired'::text, 'aborted'::text]))),
    CONSTRAINT generation_window_hours_check CHECK ((window_hours > (0)::double precision))
);


--
-- Name: generation_gen_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

ALTER TABLE revector.generation ALTER COLUMN gen ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME revector.generation_gen_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: pending; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.pending (
    gen integer NOT NULL,
    doc_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    lane text DEFAULT 'live'::text NOT NULL,
    state text DEFAULT 'due'::text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    lease_token bigint,
    lease_until timestamp with time zone,
    last_error text,
    CONSTRAINT pending_lane_check CHECK ((lane = ANY (ARRAY['live'::text, 'bulk'::text]))),
    CONSTRAINT pending_state_check CHECK ((state = ANY (ARRAY['due'::text, 'dead'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='20000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='20000');


--
-- Name: slot; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.slot AS
 SELECT c.cid,
    s.gen,
    s.role
   FROM revector.collection c,
    LATERAL ( VALUES (c.active_gen,'active'::text), (c.standby_gen,'standby'::text), (c.building_gen,'building'::text)) s(gen, role)
  WHERE (s.gen IS NOT NULL);


--
-- Name: waiver; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.waiver (
    gen integer NOT NULL,
    doc_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT waiver_who_check CHECK ((who <> ''::text)),
    CONSTRAINT waiver_why_check CHECK ((why <> ''::text))
);


--
-- Name: i13_unwaived; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.i13_unwaived AS
 SELECT p.gen,
    p.doc_id,
    p.version
   FROM ((revector.pending p
     JOIN revector.slot s ON (((s.gen = p.gen) AND (s.role = 'active'::text))))
     JOIN revector.generation g ON ((g.gen = p.gen)))
  WHERE ((p.state = 'dead'::text) AND (p.since < g.live_at) AND (NOT (EXISTS ( SELECT 1
           FROM revector.waiver w
          WHERE ((w.gen = p.gen) AND (w.doc_id = p.doc_id) AND (w.version = p.version))))));


--
-- Name: ledger; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.ledger (
    gen integer CONSTRAINT ledger_gen_not_null1 NOT NULL,
    doc_id text CONSTRAINT ledger_doc_id_not_null1 NOT NULL COLLATE pg_catalog."C",
    version bigint CONSTRAINT ledger_version_not_null1 NOT NULL,
    deleted boolean CONSTRAINT ledger_deleted_not_null1 NOT NULL,
    n_chunks integer CONSTRAINT ledger_n_chunks_not_null1 NOT NULL,
    content_hash text,
    applied_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT ledger_applied_at_not_null1 NOT NULL,
    attempt uuid,
    CONSTRAINT a_tombstone_has_no_chunks CHECK (((deleted = (n_chunks = 0)) AND (deleted = (content_hash IS NULL))))
)
PARTITION BY LIST (gen);


--
-- Name: i1_lost; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.i1_lost AS
 SELECT s.gen,
    d.doc_id,
    d.version
   FROM ((((revector.slot s
     JOIN revector.generation g USING (gen))
     JOIN revector.document d ON ((d.cid = s.cid)))
     LEFT JOIN revector.ledger l ON (((l.gen = s.gen) AND (l.doc_id = d.doc_id))))
     LEFT JOIN revector.pending p ON (((p.gen = s.gen) AND (p.doc_id = d.doc_id) AND (p.version >= d.version))))
  WHERE (g.seeded AND (p.gen IS NULL) AND (l.version IS DISTINCT FROM d.version) AND (NOT (d.deleted AND COALESCE(l.deleted, true))));


--
-- Name: i2_ahead; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.i2_ahead AS
 SELECT l.gen,
    l.doc_id
   FROM ((revector.ledger l
     JOIN revector.generation g USING (gen))
     JOIN revector.document d ON (((d.cid = g.cid) AND (d.doc_id = l.doc_id))))
  WHERE (l.version > d.version)
UNION ALL
 SELECT p.gen,
    p.doc_id
   FROM ((revector.pending p
     JOIN revector.generation g USING (gen))
     JOIN revector.document d ON (((d.cid = g.cid) AND (d.doc_id = p.doc_id))))
  WHERE (p.version > d.version);


--
-- Name: i5_slots; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.i5_slots AS
 SELECT s.cid,
    s.gen,
    s.role
   FROM (revector.slot s
     JOIN revector.generation g USING (gen))
  WHERE ((NOT g.live) OR g.dropped OR (g.cid <> s.cid) OR ((s.role <> 'building'::text) AND (NOT g.seeded)));


--
-- Name: intent; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.intent (
    gen integer NOT NULL,
    attempt uuid NOT NULL,
    doc_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    content_hash text NOT NULL,
    n_chunks integer NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    superseded_seq bigint,
    superseded_at timestamp with time zone,
    doomed_at timestamp with time zone,
    removed_at timestamp with time zone,
    CONSTRAINT doomed_before_removed CHECK ((((state = 'doomed'::text) = (doomed_at IS NOT NULL)) AND ((removed_at IS NULL) OR (state = 'doomed'::text)))),
    CONSTRAINT intent_n_chunks_check CHECK ((n_chunks > 0)),
    CONSTRAINT intent_state_check CHECK ((state = ANY (ARRAY['open'::text, 'published'::text, 'doomed'::text]))),
    CONSTRAINT only_published_is_superseded CHECK (((superseded_at IS NULL) OR ((state <> 'open'::text) AND (superseded_seq IS NOT NULL))))
)
PARTITION BY LIST (gen);


--
-- Name: i9_intent; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.i9_intent AS
 SELECT l.gen,
    l.doc_id
   FROM ((revector.generation g
     JOIN revector.ledger l USING (gen))
     LEFT JOIN revector.intent i ON (((i.gen = l.gen) AND (i.attempt = l.attempt))))
  WHERE (g.live AND (NOT l.deleted) AND
        CASE
            WHEN (COALESCE(((g.spec -> 'index'::text) ->> 'store'::text), 'pgvector'::text) = 'pgvector'::text) THEN (l.attempt IS NOT NULL)
            ELSE ((i.state IS DISTINCT FROM 'published'::text) OR (i.superseded_at IS NOT NULL) OR (i.doc_id <> l.doc_id) OR (i.version > l.version) OR (i.n_chunks <> l.n_chunks) OR ((i.content_hash <> l.content_hash) AND (l.content_hash <> ''::text)))
        END);


--
-- Name: idx_docs_g2; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.idx_docs_g2 (
    doc_id text NOT NULL COLLATE pg_catalog."C",
    chunk integer NOT NULL,
    version bigint NOT NULL,
    start integer NOT NULL,
    stop integer NOT NULL,
    embedding public.vector(8) NOT NULL
)
WITH (fillfactor='90');
ALTER TABLE ONLY revector.idx_docs_g2 ALTER COLUMN embedding SET STORAGE PLAIN;


--
-- Name: TABLE idx_docs_g2; Type: COMMENT; Schema: revector; Owner: -
--

COMMENT ON TABLE revector.idx_docs_g2 IS 'revector encoder fb36c3a5594921866bc88a3c1c6954892704f8ff315e66b13079b17547d83604';


--
-- Name: idx_docs_g3; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.idx_docs_g3 (
    doc_id text NOT NULL COLLATE pg_catalog."C",
    chunk integer NOT NULL,
    version bigint NOT NULL,
    start integer NOT NULL,
    stop integer NOT NULL,
    embedding public.vector(8) NOT NULL
)
WITH (fillfactor='90');
ALTER TABLE ONLY revector.idx_docs_g3 ALTER COLUMN embedding SET STORAGE PLAIN;


--
-- Name: TABLE idx_docs_g3; Type: COMMENT; Schema: revector; Owner: -
--

COMMENT ON TABLE revector.idx_docs_g3 IS 'revector encoder e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0';


--
-- Name: lease; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.lease (
    cid integer NOT NULL,
    token bigint DEFAULT 0 NOT NULL,
    owner text NOT NULL,
    taken_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: lease_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

CREATE SEQUENCE revector.lease_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: ledger_g2; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.ledger_g2 (
    gen integer CONSTRAINT ledger_gen_not_null1 NOT NULL,
    doc_id text CONSTRAINT ledger_doc_id_not_null1 NOT NULL COLLATE pg_catalog."C",
    version bigint CONSTRAINT ledger_version_not_null1 NOT NULL,
    deleted boolean CONSTRAINT ledger_deleted_not_null1 NOT NULL,
    n_chunks integer CONSTRAINT ledger_n_chunks_not_null1 NOT NULL,
    content_hash text,
    applied_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT ledger_applied_at_not_null1 NOT NULL,
    attempt uuid,
    CONSTRAINT a_tombstone_has_no_chunks CHECK (((deleted = (n_chunks = 0)) AND (deleted = (content_hash IS NULL))))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.05');


--
-- Name: ledger_g3; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.ledger_g3 (
    gen integer CONSTRAINT ledger_gen_not_null1 NOT NULL,
    doc_id text CONSTRAINT ledger_doc_id_not_null1 NOT NULL COLLATE pg_catalog."C",
    version bigint CONSTRAINT ledger_version_not_null1 NOT NULL,
    deleted boolean CONSTRAINT ledger_deleted_not_null1 NOT NULL,
    n_chunks integer CONSTRAINT ledger_n_chunks_not_null1 NOT NULL,
    content_hash text,
    applied_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT ledger_applied_at_not_null1 NOT NULL,
    attempt uuid,
    CONSTRAINT a_tombstone_has_no_chunks CHECK (((deleted = (n_chunks = 0)) AND (deleted = (content_hash IS NULL))))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.05');


--
-- Name: load_sample; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.load_sample (
    cid integer NOT NULL,
    minute timestamp with time zone NOT NULL,
    queued bigint NOT NULL,
    lag_s double precision NOT NULL,
    dead bigint NOT NULL,
    documents bigint NOT NULL,
    CONSTRAINT load_sample_dead_check CHECK ((dead >= 0)),
    CONSTRAINT load_sample_documents_check CHECK ((documents >= 0)),
    CONSTRAINT load_sample_lag_s_check CHECK ((lag_s >= (0)::double precision)),
    CONSTRAINT load_sample_queued_check CHECK ((queued >= 0))
);


--
-- Name: part; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.part (
    gen integer NOT NULL,
    shard integer NOT NULL,
    part integer NOT NULL,
    path text NOT NULL,
    sha256 text NOT NULL,
    documents integer NOT NULL,
    chunks integer NOT NULL,
    sealed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    published_at timestamp with time zone,
    first_id text COLLATE pg_catalog."C",
    last_id text COLLATE pg_catalog."C"
);


--
-- Name: publish_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

CREATE SEQUENCE revector.publish_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: rejected; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.rejected (
    cid integer NOT NULL,
    doc_id text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    external_version bigint,
    waived_by text,
    waived_why text,
    waived_at timestamp with time zone,
    CONSTRAINT a_waiver_has_a_name_and_a_reason CHECK ((((waived_by IS NULL) = (waived_why IS NULL)) AND ((waived_by IS NULL) = (waived_at IS NULL)))),
    CONSTRAINT rejected_waived_by_check CHECK ((waived_by <> ''::text)),
    CONSTRAINT rejected_waived_why_check CHECK ((waived_why <> ''::text))
);


--
-- Name: refused; Type: VIEW; Schema: revector; Owner: -
--

CREATE VIEW revector.refused AS
 SELECT r.cid,
    r.doc_id,
    r.source,
    r.reason,
    r.at,
    r.external_version,
    r.waived_by,
    r.waived_why,
    r.waived_at,
    COALESCE((NOT d.deleted), false) AS behind
   FROM (revector.rejected r
     LEFT JOIN revector.document d USING (cid, doc_id))
  WHERE COALESCE((r.external_version > d.external_version), true);


--
-- Name: schema_version; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.schema_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: server; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.server (
    server_id uuid NOT NULL,
    name text NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    warm integer[] DEFAULT '{}'::integer[] NOT NULL,
    problem text
);


--
-- Name: shadow_read; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.shadow_read (
    gen integer NOT NULL,
    against integer NOT NULL,
    k integer NOT NULL,
    hour timestamp with time zone NOT NULL,
    compared bigint NOT NULL,
    shed bigint NOT NULL,
    skipped bigint NOT NULL,
    gone bigint NOT NULL,
    errors bigint NOT NULL,
    overlap_sum double precision NOT NULL,
    overlap_squares double precision NOT NULL,
    rbo_sum double precision NOT NULL,
    rbo_squares double precision NOT NULL,
    tenths bigint[] NOT NULL,
    old_ms bigint[] NOT NULL,
    new_ms bigint[] NOT NULL,
    CONSTRAINT shadow_read_compared_check CHECK ((compared >= 0)),
    CONSTRAINT shadow_read_k_check CHECK (((k >= 1) AND (k <= 100))),
    CONSTRAINT shadow_read_new_ms_check CHECK ((cardinality(new_ms) = 88)),
    CONSTRAINT shadow_read_old_ms_check CHECK ((cardinality(old_ms) = 88)),
    CONSTRAINT shadow_read_tenths_check CHECK ((cardinality(tenths) = 11))
);


--
-- Name: shard; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.shard (
    gen integer NOT NULL,
    shard integer NOT NULL,
    lo text NOT NULL COLLATE pg_catalog."C",
    hi text COLLATE pg_catalog."C",
    cursor text NOT NULL COLLATE pg_catalog."C",
    documents bigint NOT NULL,
    seeded boolean DEFAULT false NOT NULL,
    done boolean DEFAULT false NOT NULL,
    CONSTRAINT shard_check CHECK ((hi > lo)),
    CONSTRAINT shard_check1 CHECK ((cursor >= lo)),
    CONSTRAINT shard_check2 CHECK ((seeded OR (NOT done)))
);


--
-- Name: spending; Type: TABLE; Schema: revector; Owner: -
--

CREATE TABLE revector.spending (
    provider text NOT NULL,
    day date NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    usd double precision NOT NULL
);


--
-- Name: version_seq; Type: SEQUENCE; Schema: revector; Owner: -
--

CREATE SEQUENCE revector.version_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: ledger_g2; Type: TABLE ATTACH; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.ledger ATTACH PARTITION revector.ledger_g2 FOR VALUES IN (2);


--
-- Name: ledger_g3; Type: TABLE ATTACH; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.ledger ATTACH PARTITION revector.ledger_g3 FOR VALUES IN (3);


--
-- Data for Name: api_key; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: archived; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.archived VALUES
	('/srv/docs/.revector/archive/idx_docs_g1/shard-0000-4ba391aa6082.h5', '2200e52e083f2d0e7fd71291ee58f91ef9b1b76e5b1bbde2ff4ab9744eec9d29', 1, 1, 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', 'e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1', 8, 'd00000', 'd00029', 30, 30, 'kept', '2026-11-30 02:46:49.445893+00'),
	('/srv/docs/.revector/archive/idx_docs_g1/shard-0001-8e0e974d00c7.h5', '942b01550027d4531a685b3d50baafc739aeeb426e4d9b1efb1ad2935d1bee99', 1, 1, 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', 'e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1', 8, 'd00030', 'd00059', 30, 30, 'kept', '2026-11-30 02:46:49.446197+00');


--
-- Data for Name: canary; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: collection; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.collection OVERRIDING SYSTEM VALUE VALUES
	(1, 'docs', 7, 2, NULL, 3, NULL, 2, '2026-11-30 02:46:42.558465+00');


--
-- Data for Name: document; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.document VALUES
	(1, 'd00000', 1, false, 0, 'apple0 pear0 some words here number 0', '24169db222822b32df2471d3222d476328a4f68e47adef1ef51604112d7b4809', '{"n": 0}', NULL, '2026-11-30 02:46:42.586144+00'),
	(1, 'd00003', 4, false, 0, 'apple3 pear3 some words here number 3', '19cf48547e0dddab2bf820e26f62cf173a2228764c5d4e72241fede03029cea1', '{"n": 3}', NULL, '2026-11-30 02:46:42.586626+00'),
	(1, 'd00004', 5, false, 0, 'apple4 pear4 some words here number 4', 'c2e6ee259f7bdf3aaa7399ee2b795a4bdf6112b1cf1e4a9cb3185171c6535854', '{"n": 4}', NULL, '2026-11-30 02:46:42.586646+00'),
	(1, 'd00005', 6, false, 0, 'apple5 pear5 some words here number 5', 'e4aab7b635d4834d17e3a9278ccc49974d9dbe0dc073650c662e1aefb974a8d6', '{"n": 5}', NULL, '2026-11-30 02:46:42.586664+00'),
	(1, 'd00006', 7, false, 0, 'apple6 pear6 some words here number 6', 'e55d33c2c2877c7ed7dcf170ec62045a6660e8fb4c677f8a253e730a7ccb8b55', '{"n": 6}', NULL, '2026-11-30 02:46:42.58668+00'),
	(1, 'd00007', 8, false, 0, 'apple7 pear7 some words here number 7', 'cc43c52f6119935bf377025a52654f93212bff461991a35880e2159517dac63d', '{"n": 7}', NULL, '2026-11-30 02:46:42.586697+00'),
	(1, 'd00008', 9, false, 0, 'apple8 pear8 some words here number 8', '275593708e7ef34d0962f67dda3a8cbd3bf6626557ae070cb604804e1c21eb10', '{"n": 8}', NULL, '2026-11-30 02:46:42.586712+00'),
	(1, 'd00009', 10, false, 0, 'apple9 pear9 some words here number 9', '005b8efdc8f584f777d3a9c90991d5d35732b6d8c9745853aa81456d6df931c9', '{"n": 9}', NULL, '2026-11-30 02:46:42.586729+00'),
	(1, 'd00010', 11, false, 0, 'apple10 pear10 some words here number 10', '4025ef6408750889a0c45d3555b3e77de05fbe46bfdc4b1271ec9909e8dde57d', '{"n": 10}', NULL, '2026-11-30 02:46:42.586745+00'),
	(1, 'd00011', 12, false, 0, 'apple11 pear11 some words here number 11', '73c94e19015627ac43b24f6c2c1040abcc72e6718b19a3e4cdacb60c86ab434a', '{"n": 11}', NULL, '2026-11-30 02:46:42.586761+00'),
	(1, 'd00012', 13, false, 0, 'apple12 pear12 some words here number 12', 'a28cd4cc125721707def3927e69ccec9cb615aab503dca94fbcecc8444e4dad6', '{"n": 12}', NULL, '2026-11-30 02:46:42.586777+00'),
	(1, 'd00013', 14, false, 0, 'apple13 pear13 some words here number 13', 'e05e9ee0425f7e244b8f027e7471671f7709353403bba9dad70ce2e315631321', '{"n": 13}', NULL, '2026-11-30 02:46:42.586793+00'),
	(1, 'd00014', 15, false, 0, 'apple14 pear14 some words here number 14', '807768ea9b1aa3cad9cd298c8253b406094661c986dc0d5f090375e98cc150d2', '{"n": 14}', NULL, '2026-11-30 02:46:42.586809+00'),
	(1, 'd00015', 16, false, 0, 'apple15 pear15 some words here number 15', 'a4494b5545a25a447ec6a8ecda56244bc4e4aa0faadc6ec10aaf733ce572a65c', '{"n": 15}', NULL, '2026-11-30 02:46:42.586825+00'),
	(1, 'd00016', 17, false, 0, 'apple16 pear16 some words here number 16', '5bf8f13694da22292d6aa999301b245fee1b475465383649ecf5608c0db81c50', '{"n": 16}', NULL, '2026-11-30 02:46:42.586841+00'),
	(1, 'd00017', 18, false, 0, 'apple17 pear17 some words here number 17', '22dc51a87d60d6dc19f0bceb7b9c231534bf7d347d4ac432c6af5227ea23eda8', '{"n": 17}', NULL, '2026-11-30 02:46:42.586857+00'),
	(1, 'd00018', 19, false, 0, 'apple18 pear18 some words here number 18', '6dbc401f3c80a9bf5b169cf619eda696151f5b1e30be7db602772eea9c623913', '{"n": 18}', NULL, '2026-11-30 02:46:42.586873+00'),
	(1, 'd00019', 20, false, 0, 'apple19 pear19 some words here number 19', '16da6b4bade64daa6ef18ac735187055cbda87531d8502ce6ff82608bf06ab16', '{"n": 19}', NULL, '2026-11-30 02:46:42.586889+00'),
	(1, 'd00020', 21, false, 0, 'apple20 pear20 some words here number 20', '677c4780e37118a4f4be6c5c0b0089bfd7dfa265e8880d1a5d6855900549639a', '{"n": 20}', NULL, '2026-11-30 02:46:42.586906+00'),
	(1, 'd00021', 22, false, 0, 'apple21 pear21 some words here number 21', 'bde25f5bf0fe2fd3b7d6b4be8ffeb4f630237964cc14fa4943f5e93f0ed3e2d5', '{"n": 21}', NULL, '2026-11-30 02:46:42.586921+00'),
	(1, 'd00022', 23, false, 0, 'apple22 pear22 some words here number 22', '4b81bcd962f9c0d94cbf133a0c7183e8974493cca0423fec2a208063554d0d39', '{"n": 22}', NULL, '2026-11-30 02:46:42.586937+00'),
	(1, 'd00023', 24, false, 0, 'apple23 pear23 some words here number 23', 'eca5c4081cc30604a371148682fd46a2b22f3d213b614ed76f849c3ae5d7240c', '{"n": 23}', NULL, '2026-11-30 02:46:42.586953+00'),
	(1, 'd00024', 25, false, 0, 'apple24 pear24 some words here number 24', '6a281e38ffaff804a9c12a47516aa912d5b9e28d67e7e7e62757a66ef019c237', '{"n": 24}', NULL, '2026-11-30 02:46:42.586969+00'),
	(1, 'd00025', 26, false, 0, 'apple25 pear25 some words here number 25', 'b953b09d02824743f53b950d192eae362fc77ec7363836b564e905872477c29d', '{"n": 25}', NULL, '2026-11-30 02:46:42.586984+00'),
	(1, 'd00026', 27, false, 0, 'apple26 pear26 some words here number 26', 'fdab499931708c0c86b5b84116f2a14edb2c4566c46c6b74aa577880cd5358b5', '{"n": 26}', NULL, '2026-11-30 02:46:42.587+00'),
	(1, 'd00027', 28, false, 0, 'apple27 pear27 some words here number 27', 'a022c710b243fd5579b258835047174a441254f06ceb5244fbdd2e922e631d8f', '{"n": 27}', NULL, '2026-11-30 02:46:42.587017+00'),
	(1, 'd00028', 29, false, 0, 'apple28 pear28 some words here number 28', 'f77602733ac06d7a69129c3c505900f02d7f0d061c282dc9ff76f87f2758d266', '{"n": 28}', NULL, '2026-11-30 02:46:42.587033+00'),
	(1, 'd00029', 30, false, 0, 'apple29 pear29 some words here number 29', '665d13ec2354352b58e44aabbe01dcd7352ecdf9cb6a34fc79534778627c532d', '{"n": 29}', NULL, '2026-11-30 02:46:42.587049+00'),
	(1, 'd00030', 31, false, 0, 'apple30 pear30 some words here number 30', '0b5945a63957cca95c0f30ff14e0142eaa84318ae826b75cc102638e3e5247ea', '{"n": 30}', NULL, '2026-11-30 02:46:42.587066+00'),
	(1, 'd00031', 32, false, 0, 'apple31 pear31 some words here number 31', 'fa42dfbd967b94381122cb6846cead75238d935d76c0d0c75ae5b05fb5983c54', '{"n": 31}', NULL, '2026-11-30 02:46:42.587082+00'),
	(1, 'd00032', 33, false, 0, 'apple32 pear32 some words here number 32', '99d37b0a20643b456a96b8cee590a356641d5519234f6c49636e0f83409f8610', '{"n": 32}', NULL, '2026-11-30 02:46:42.587097+00'),
	(1, 'd00033', 34, false, 0, 'apple33 pear33 some words here number 33', '661e3b230f1eff1ef255ec35fe130c55461b792a968f26b02288e587325404c0', '{"n": 33}', NULL, '2026-11-30 02:46:42.587114+00'),
	(1, 'd00034', 35, false, 0, 'apple34 pear34 some words here number 34', 'aac073efb460ef714ce93b4b2e198b7d68dc7cf249d3ca1744d8d47ef3776c60', '{"n": 34}', NULL, '2026-11-30 02:46:42.587131+00'),
	(1, 'd00035', 36, false, 0, 'apple35 pear35 some words here number 35', '6c297d56dff8f1e8cd42cac0fdf82458ed3ce4f54c6b4e7f1f28a4b14c85a06f', '{"n": 35}', NULL, '2026-11-30 02:46:42.587147+00'),
	(1, 'd00036', 37, false, 0, 'apple36 pear36 some words here number 36', '9cda313b4b14e29723e9b35c2f04bf2dbf323281d56deca3ad4ac0e18bf278f4', '{"n": 36}', NULL, '2026-11-30 02:46:42.587162+00'),
	(1, 'd00002', 68, false, 0, 'apple2 pear2 changed', '1ffd1cb97057a74df6d1c9254968ad80a792588bd80e927262945390f33c2f77', '{}', NULL, '2026-11-30 02:46:50.256752+00'),
	(1, 'd00037', 38, false, 0, 'apple37 pear37 some words here number 37', 'b9dac83e1c6b29e4b9a260149982acb205d36c0eada8151a05e5514bc896dbbd', '{"n": 37}', NULL, '2026-11-30 02:46:42.587178+00'),
	(1, 'd00038', 39, false, 0, 'apple38 pear38 some words here number 38', '14c8a41ad2ddacceeb6263f6c27b7dad9bf03a838aa6da82a412194ade34fa99', '{"n": 38}', NULL, '2026-11-30 02:46:42.587449+00'),
	(1, 'd00039', 40, false, 0, 'apple39 pear39 some words here number 39', '2ae4f9451391fa47a5a67481f946f03313df0e686f0d7ffacaea26eaa6206b4d', '{"n": 39}', NULL, '2026-11-30 02:46:42.587479+00'),
	(1, 'd00040', 41, false, 0, 'apple40 pear40 some words here number 40', '2d89041b24ae152ed41a8e55a7c86141a3ec234e6842f204f9dd9ec9a877149b', '{"n": 40}', NULL, '2026-11-30 02:46:42.587498+00'),
	(1, 'd00041', 42, false, 0, 'apple41 pear41 some words here number 41', 'a8af0ea9d99d6691b2cf036713f6fa90db0a6d2a0f97c2061fd716ae6824ddb5', '{"n": 41}', NULL, '2026-11-30 02:46:42.587515+00'),
	(1, 'd00042', 43, false, 0, 'apple42 pear42 some words here number 42', 'ef9ddd88464a3f0ec4e48aa6083ca44f4b6c7f4cbc6f44649460cc39d4644fae', '{"n": 42}', NULL, '2026-11-30 02:46:42.587531+00'),
	(1, 'd00043', 44, false, 0, 'apple43 pear43 some words here number 43', 'fbb2c1de3b8e4748ade930b73bc5b71e349b691dbf319a24899d8d4913aa92f1', '{"n": 43}', NULL, '2026-11-30 02:46:42.587548+00'),
	(1, 'd00044', 45, false, 0, 'apple44 pear44 some words here number 44', '200fabf07ffeda3c4a9c79a5e84f3148644dbec5c07eb2d08efe89c45faa4a1c', '{"n": 44}', NULL, '2026-11-30 02:46:42.587565+00'),
	(1, 'd00045', 46, false, 0, 'apple45 pear45 some words here number 45', '19be840b659a652f699558f4b0a6c9c9ed08abb82e4ed48a04b99438eb099525', '{"n": 45}', NULL, '2026-11-30 02:46:42.58758+00'),
	(1, 'd00046', 47, false, 0, 'apple46 pear46 some words here number 46', '4f46ab0d511cff2eb9b4c3b1101223d3c9ec002c5b2dccbc5e6d0d5cf7d08ab1', '{"n": 46}', NULL, '2026-11-30 02:46:42.587596+00'),
	(1, 'd00047', 48, false, 0, 'apple47 pear47 some words here number 47', '35fc8efebbd80bbaf07be0ac865b1f3dd5f14ae81bd24b51ae58046b476bea8b', '{"n": 47}', NULL, '2026-11-30 02:46:42.587612+00'),
	(1, 'd00048', 49, false, 0, 'apple48 pear48 some words here number 48', '85fd0039a4a15311e901c7cf09e8e3b46df41051840ed2da5eaffb594b97397e', '{"n": 48}', NULL, '2026-11-30 02:46:42.587628+00'),
	(1, 'd00049', 50, false, 0, 'apple49 pear49 some words here number 49', 'be141e2ff36b60608d48e699f9e1b04a125da2c60deb719ac523c73d7c11ce89', '{"n": 49}', NULL, '2026-11-30 02:46:42.587644+00'),
	(1, 'd00050', 51, false, 0, 'apple50 pear50 some words here number 50', '05e41add4ca93a8f5deb08ee23fc8d5838fc5cae5903e803a62ec640f62a9ac2', '{"n": 50}', NULL, '2026-11-30 02:46:42.587661+00'),
	(1, 'd00052', 53, false, 0, 'apple52 pear52 some words here number 52', '0a4825563c580994ed10e51e54a868a2ace0e4e318ac1a0c57d7e67c0fe0e03e', '{"n": 52}', NULL, '2026-11-30 02:46:42.587692+00'),
	(1, 'd00053', 54, false, 0, 'apple53 pear53 some words here number 53', 'd63fc9815cb0da090461cd76157f0c6c21a4f0c198f8c5193ec6c8ca37f60758', '{"n": 53}', NULL, '2026-11-30 02:46:42.587708+00'),
	(1, 'd00054', 55, false, 0, 'apple54 pear54 some words here number 54', '128248227ce1bf8be81156337bce1076bc88d4b30a7e80e8e19bbee4fdb27222', '{"n": 54}', NULL, '2026-11-30 02:46:42.587723+00'),
	(1, 'd00055', 56, false, 0, 'apple55 pear55 some words here number 55', '5b6d82a50e4989ec084f7004c08afe35be6c8eafbad2567767d38d4264f3dbe7', '{"n": 55}', NULL, '2026-11-30 02:46:42.587739+00'),
	(1, 'd00056', 57, false, 0, 'apple56 pear56 some words here number 56', 'ff43e1d0727b8c5e3959363fe5ae6b35935aa3f10430d6e0c8ec0e0baf918ad5', '{"n": 56}', NULL, '2026-11-30 02:46:42.587754+00'),
	(1, 'd00057', 58, false, 0, 'apple57 pear57 some words here number 57', '4f780b3d5b9b20d778872d3fa9758b6bbf7b278f4dfda2f3f4127c27fb5747cd', '{"n": 57}', NULL, '2026-11-30 02:46:42.587778+00'),
	(1, 'd00058', 59, false, 0, 'apple58 pear58 some words here number 58', '1b4e6bd9271afdb6d7f13eb4d9e0a18b158898c02454910383d23f94a8ea1324', '{"n": 58}', NULL, '2026-11-30 02:46:42.587795+00'),
	(1, 'd00059', 60, false, 0, 'apple59 pear59 some words here number 59', '2b95657d7be99c2a5e3a603c9b03f5b01eadb2e9135a73150a8f61c7fabff242', '{"n": 59}', NULL, '2026-11-30 02:46:42.587811+00'),
	(1, 'd00060', 61, false, 0, 'apple60 pear60 some words here number 60', '2361d975ecb2fe73312116c8197002ae68e7b3e5bdc847722d8b82fafc68e33f', '{"n": 60}', NULL, '2026-11-30 02:46:49.509125+00'),
	(1, 'd00061', 62, false, 0, 'apple61 pear61 some words here number 61', '47bf9e5e6e524764cbfe51f201ee97f0f3837cce53a6edbfce2c1d7c792a7aca', '{"n": 61}', NULL, '2026-11-30 02:46:49.509342+00'),
	(1, 'd00051', 64, true, 64, NULL, NULL, '{}', NULL, '2026-11-30 02:46:49.531006+00'),
	(1, 'd00001', 66, false, 0, 'apple1 pear1 changed before the upgrade', '0c171dd56534185a6173de0fc0b84d7fd15388ff460c58824a4c08eb6c34a4db', '{}', NULL, '2026-11-30 02:46:50.222564+00');


--
-- Data for Name: event; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.event VALUES
	(1, 1, '2026-11-30 02:46:42.768568+00', 1, 'tester', 'plan', NULL, '{"usd": 0.000002, "chunks": 60, "reused": 0, "tokens": 420, "seconds": {"gate": 1.2, "index": 0.007, "verify": 0.001, "backfill": 0.01}, "revision": "a100", "documents": 60, "index_bytes": 28261, "archive_bytes": 8220}', 'c1daf62706c26b0d2d41fee4093051f9c53a8d069f4c417f0287ebcd09cbc56f', 2),
	(1, 2, '2026-11-30 02:46:42.902705+00', 2, 'tester', 'provision', 1, '{"model": "hashing", "shards": 2, "physical": "idx_docs_g1", "revision": "a100", "window_hours": 48.0}', '9b011ae37c1872e65125969e35e17b0d268730e58d040733e2a9bb96ff653b77', 2),
	(1, 3, '2026-11-30 02:46:43.541617+00', 2, 'tester', 'backfill', 1, '{"chunks": 60, "reused": 0, "shards": 2, "embedded": 60, "documents": 60, "archive_bytes": 24184}', 'b7a14a05b997abec5d3cb331d2ca08152349813c9b164e60229a32e0ad8287bc', 2),
	(1, 4, '2026-11-30 02:46:43.716453+00', 2, 'tester', 'index', 1, '{"built": true, "index_bytes": 65536}', '55f4a2019235032fcde6241240cc0f62093ec0fd7ea631b5e812d5c1a52ac66d', 2),
	(1, 5, '2026-11-30 02:46:43.982132+00', 2, 'tester', 'verify', 1, '{"role": "building", "alike": 2, "extra": 0, "stale": 0, "chunks": 60, "faults": [], "checked": 60, "damaged": 0, "deleted": 0, "missing": 0, "rearmed": 0, "farthest": 0.0000000000000002220446049250313, "revision": "a100", "documents": 60, "in_flight": 0, "tolerance": 0.00001, "generation": 1, "reembedded": 60, "unreadable": 0, "dead_letters": 0}', '35f7233599b61cbff9dcf61c5b69f8ceeb1ed025d48b62ef70514edad7a1277a', 2),
	(1, 6, '2026-11-30 02:46:44.902752+00', 2, 'tester', 'gate', 1, '{"k": 10, "new": {"means": {"hit": 0.95, "mrr": 0.5770833333333335, "ndcg": 0.6685151420946817, "recall": 0.95}, "recall": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "revision": "a100", "generation": 1, "latency_ms": {"p50": 10.018658998887986, "p95": 18.2042986540182, "p99": 22.020488019625187}}, "pairs": 60, "labels": "labels/test", "queries": 60, "same_ids": 0, "queries_lost": 0, "own_documents": 0, "unjudged_queries": 0, "unknown_documents": 0, "labels_fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9"}', '9db1364007adecd550aaae061a783652d4c92e3389d88e0847cd025f2a3eb46d', 2),
	(1, 7, '2026-11-30 02:46:44.940485+00', 2, 'tester', 'approve', 1, '{"by": "tester", "reason": null, "asked_for": false}', 'f68469432742a5d39e04433ad72a3d9eba1306923d37a45c193ff423902a54c6', 2),
	(1, 8, '2026-11-30 02:46:45.04538+00', 3, 'tester', 'swap', 1, '{"to": 1, "from": null, "pause_ms": 26.0, "revision": "a100", "forward_again": false, "rollback_deadline": null}', 'da4f2b8c23200a1a235c797c8649c980a301c8ebd3f21c7276fe233505672068', 2),
	(1, 9, '2026-11-30 02:46:45.217689+00', 3, 'tester', 'plan', NULL, '{"usd": 0.000002, "chunks": 60, "reused": 0, "tokens": 420, "seconds": {"gate": 1.2, "index": 0.007, "verify": 0.001, "backfill": 0.008}, "revision": "b200", "documents": 60, "index_bytes": 28261, "archive_bytes": 8220}', '78c4b196985e27a671c064e003e29392fd34040701415a3414f98b974e8efaa4', 2),
	(1, 10, '2026-11-30 02:46:45.394369+00', 4, 'tester', 'provision', 2, '{"model": "hashing:seed2", "shards": 2, "physical": "idx_docs_g2", "revision": "b200", "window_hours": 48.0}', 'b03c8e393b22481313aa6e0171f70110a2586a624e112ff9c31278541de8d06a', 2),
	(1, 11, '2026-11-30 02:46:46.256661+00', 4, 'tester', 'backfill', 2, '{"chunks": 60, "reused": 0, "shards": 2, "embedded": 60, "documents": 60, "archive_bytes": 24184}', '2441bade4b222649590658b047cf3928962c1c894c1fa4770849cae8508d0684', 2),
	(1, 12, '2026-11-30 02:46:46.427485+00', 4, 'tester', 'index', 2, '{"built": true, "index_bytes": 65536}', '06a2c1da3f6d7aa3575a539d418df136182f7517faadfcaf5afd3c65e02629fd', 2),
	(1, 13, '2026-11-30 02:46:46.748123+00', 4, 'tester', 'verify', 2, '{"role": "building", "alike": 0, "extra": 0, "stale": 0, "chunks": 60, "faults": [], "checked": 60, "damaged": 0, "deleted": 0, "missing": 0, "rearmed": 0, "farthest": 0.0000000000000002220446049250313, "revision": "b200", "documents": 60, "in_flight": 0, "tolerance": 0.00001, "generation": 2, "reembedded": 60, "unreadable": 0, "dead_letters": 0}', '448128c3fe351e5d4b6f5d82d06778e38a5530364c9f2fc06e2476853fbc54e4', 2),
	(1, 14, '2026-11-30 02:46:49.155871+00', 4, 'tester', 'gate', 2, '{"k": 10, "new": {"means": {"hit": 0.9833333333333333, "mrr": 0.6028835978835979, "ndcg": 0.6949584277090702, "recall": 0.9833333333333333}, "recall": {"low": 0.9108896084896637, "high": 0.9995669531888185, "mean": 0.9833333333333333}, "revision": "b200", "generation": 2, "latency_ms": {"p50": 12.055869497999083, "p95": 27.3202377004054, "p99": 58.093939900281825}}, "old": {"means": {"hit": 0.95, "mrr": 0.5770833333333335, "ndcg": 0.6685151420946817, "recall": 0.95}, "recall": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "revision": "a100", "generation": 1, "latency_ms": {"p50": 13.870609498553677, "p95": 34.604085905084496, "p99": 40.09956152905942}}, "pairs": 60, "labels": "labels/test", "queries": 60, "same_ids": 0, "difference": {"low": -0.05530605790213978, "high": 0.12656970747575577, "mean": 0.03333333333333333}, "queries_lost": 0, "own_documents": 0, "unjudged_queries": 0, "unknown_documents": 0, "labels_fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9"}', 'ff1ab80866ead8b5847c408572147e91b736ca8b2e427d873268769100341a11', 2),
	(1, 15, '2026-11-30 02:46:49.212171+00', 4, 'tester', 'approve', 2, '{"by": "tester", "reason": null, "asked_for": false}', '450604eb586a94bf0c509f94ae22359a7895ebd1f0bb557df7006afce963eb2b', 2),
	(1, 16, '2026-11-30 02:46:49.370146+00', 5, 'tester', 'swap', 2, '{"to": 2, "from": 1, "pause_ms": 32.3, "revision": "b200", "forward_again": false, "rollback_deadline": "2026-12-02 02:46:49.354286+00:00"}', '618edba38740a9f56ee096ac5dab1e39149d4479cf05f7f94133fc998cfa9c89', 2),
	(1, 17, '2026-11-30 02:46:49.4103+00', 6, 'tester', 'retire', 1, '{"reason": "over", "revision": "a100", "window_given_up": true}', '6101d2680c73b0947483b9ec52dcb4ee1d2238df7bf19c625d17a4055f3178c5', 2),
	(1, 18, '2026-11-30 02:46:49.462169+00', 6, 'tester', 'drop', 1, '{"physical": "idx_docs_g1"}', '0703a7b7a98d8d88e0c931cdca847b8cdbee049db727fb27b2e193ed8324ed78', 2),
	(1, 19, '2026-11-30 02:46:49.957354+00', 6, 'tester', 'plan', NULL, '{"usd": 0.0, "chunks": 61, "reused": 59, "tokens": 14, "seconds": {"gate": 1.18, "index": 0.007, "verify": 0.007, "backfill": 0.005}, "revision": "c300", "documents": 61, "index_bytes": 28732, "archive_bytes": 274}', '02a51f9d68c73cb11c6ec31639dbbf46305d703519594f2d7e7c10f558ba20b0', 2),
	(1, 20, '2026-11-30 02:46:50.201086+00', 7, 'tester', 'provision', 3, '{"model": "hashing", "shards": 2, "physical": "idx_docs_g3", "revision": "c300", "window_hours": 48.0}', 'e7ce3bf08ad7c3593c5495fcb171275b09c80ec9585cda6c05203e0169b2e708', 2);


--
-- Data for Name: gate_override; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: gate_result; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.gate_result OVERRIDING SYSTEM VALUE VALUES
	(1, 1, 'd2f39951c58dfe5191bd9d49821b358fe8375a0613d45d0d3e0c8710f7f497a9', 'verify', true, '{"role": "building", "alike": 2, "extra": 0, "stale": 0, "chunks": 60, "faults": [], "checked": 60, "damaged": 0, "deleted": 0, "missing": 0, "rearmed": 0, "reasons": [], "farthest": 0.0000000000000002220446049250313, "revision": "a100", "documents": 60, "in_flight": 0, "tolerance": 0.00001, "generation": 1, "reembedded": 60, "unreadable": 0, "dead_letters": 0, "documents_seen": 60}', 60, 4, '2026-11-30 02:46:43.962788+00', 'pass'),
	(2, 1, 'd2f39951c58dfe5191bd9d49821b358fe8375a0613d45d0d3e0c8710f7f497a9', 'recall', true, '{"k": 10, "ann": null, "new": {"means": {"hit": 0.95, "mrr": 0.5770833333333335, "ndcg": 0.6685151420946817, "recall": 0.95}, "recall": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "revision": "a100", "generation": 1, "latency_ms": {"p50": 10.018658998887986, "p95": 18.2042986540182, "p99": 22.020488019625187}}, "gate": {"k": 10, "slices": [], "max_drop": 1.0, "confidence": 0.95, "min_recall": 0.0, "min_overlap": null, "min_queries": 1, "min_fidelity": 0.99, "shadow_hours": 0.0, "max_slice_drop": null, "max_latency_ratio": null}, "pairs": 60, "labels": "labels/test", "scores": {"new": {"q0": 1.0, "q1": 0.0, "q2": 1.0, "q3": 1.0, "q4": 1.0, "q5": 1.0, "q6": 1.0, "q7": 1.0, "q8": 1.0, "q9": 1.0, "q10": 1.0, "q11": 1.0, "q12": 1.0, "q13": 1.0, "q14": 1.0, "q15": 1.0, "q16": 1.0, "q17": 1.0, "q18": 1.0, "q19": 1.0, "q20": 1.0, "q21": 1.0, "q22": 1.0, "q23": 1.0, "q24": 1.0, "q25": 1.0, "q26": 1.0, "q27": 1.0, "q28": 1.0, "q29": 1.0, "q30": 1.0, "q31": 1.0, "q32": 1.0, "q33": 1.0, "q34": 1.0, "q35": 0.0, "q36": 1.0, "q37": 1.0, "q38": 1.0, "q39": 1.0, "q40": 1.0, "q41": 1.0, "q42": 1.0, "q43": 1.0, "q44": 1.0, "q45": 1.0, "q46": 1.0, "q47": 1.0, "q48": 1.0, "q49": 1.0, "q50": 1.0, "q51": 1.0, "q52": 1.0, "q53": 1.0, "q54": 1.0, "q55": 1.0, "q56": 1.0, "q57": 1.0, "q58": 0.0, "q59": 1.0}}, "latency": null, "queries": 60, "reasons": [], "findings": [], "same_ids": 0, "comparison": {"k": 10, "new": "a100", "old": null, "won": [], "lost": [], "slices": [{"name": "short (up to 2 words)", "field": "length", "recall": {"p": null, "new": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "old": null, "needed": null, "queries": 60, "deviation": null, "detectable": null, "difference": null}, "minimum": 30, "queries": 60, "high_of_all": null}], "ceiling": 1.0, "metrics": {"hit": {"p": null, "new": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "old": null, "needed": null, "queries": 60, "deviation": null, "detectable": null, "difference": null}, "mrr": {"p": null, "new": {"low": 0.47833328413744086, "high": 0.6704821140231078, "mean": 0.5770833333333335}, "old": null, "needed": null, "queries": 60, "deviation": null, "detectable": null, "difference": null}, "ndcg": {"p": null, "new": {"low": 0.5798218477289528, "high": 0.7445623820322349, "mean": 0.6685151420946817}, "old": null, "needed": null, "queries": 60, "deviation": null, "detectable": null, "difference": null}, "recall": {"p": null, "new": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "old": null, "needed": null, "queries": 60, "deviation": null, "detectable": null, "difference": null}}, "queries": 60, "documents": 60, "confidence": 0.95, "fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9", "saturated_by": []}, "queries_lost": 0, "own_documents": 0, "documents_seen": 60, "unjudged_queries": 0, "unknown_documents": 0, "labels_fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9"}', 60, 5, '2026-11-30 02:46:44.894426+00', 'pass'),
	(3, 2, '560858331810c63998d0edbee85fca8110acb8ed8970fd00d8a29aa97389bd10', 'verify', true, '{"role": "building", "alike": 0, "extra": 0, "stale": 0, "chunks": 60, "faults": [], "checked": 60, "damaged": 0, "deleted": 0, "missing": 0, "rearmed": 0, "reasons": [], "farthest": 0.0000000000000002220446049250313, "revision": "b200", "documents": 60, "in_flight": 0, "tolerance": 0.00001, "generation": 2, "reembedded": 60, "unreadable": 0, "dead_letters": 0, "documents_seen": 60}', 60, 11, '2026-11-30 02:46:46.73787+00', 'pass'),
	(4, 2, '560858331810c63998d0edbee85fca8110acb8ed8970fd00d8a29aa97389bd10', 'recall', true, '{"k": 10, "ann": null, "new": {"means": {"hit": 0.9833333333333333, "mrr": 0.6028835978835979, "ndcg": 0.6949584277090702, "recall": 0.9833333333333333}, "recall": {"low": 0.9108896084896637, "high": 0.9995669531888185, "mean": 0.9833333333333333}, "revision": "b200", "generation": 2, "latency_ms": {"p50": 12.055869497999083, "p95": 27.3202377004054, "p99": 58.093939900281825}}, "old": {"means": {"hit": 0.95, "mrr": 0.5770833333333335, "ndcg": 0.6685151420946817, "recall": 0.95}, "recall": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "revision": "a100", "generation": 1, "latency_ms": {"p50": 13.870609498553677, "p95": 34.604085905084496, "p99": 40.09956152905942}}, "gate": {"k": 10, "slices": [], "max_drop": 1.0, "confidence": 0.95, "min_recall": 0.0, "min_overlap": null, "min_queries": 1, "min_fidelity": 0.99, "shadow_hours": 0.0, "max_slice_drop": null, "max_latency_ratio": null}, "pairs": 60, "labels": "labels/test", "scores": {"new": {"q0": 1.0, "q1": 1.0, "q2": 1.0, "q3": 1.0, "q4": 1.0, "q5": 1.0, "q6": 1.0, "q7": 1.0, "q8": 1.0, "q9": 1.0, "q10": 1.0, "q11": 0.0, "q12": 1.0, "q13": 1.0, "q14": 1.0, "q15": 1.0, "q16": 1.0, "q17": 1.0, "q18": 1.0, "q19": 1.0, "q20": 1.0, "q21": 1.0, "q22": 1.0, "q23": 1.0, "q24": 1.0, "q25": 1.0, "q26": 1.0, "q27": 1.0, "q28": 1.0, "q29": 1.0, "q30": 1.0, "q31": 1.0, "q32": 1.0, "q33": 1.0, "q34": 1.0, "q35": 1.0, "q36": 1.0, "q37": 1.0, "q38": 1.0, "q39": 1.0, "q40": 1.0, "q41": 1.0, "q42": 1.0, "q43": 1.0, "q44": 1.0, "q45": 1.0, "q46": 1.0, "q47": 1.0, "q48": 1.0, "q49": 1.0, "q50": 1.0, "q51": 1.0, "q52": 1.0, "q53": 1.0, "q54": 1.0, "q55": 1.0, "q56": 1.0, "q57": 1.0, "q58": 1.0, "q59": 1.0}, "old": {"q0": 1.0, "q1": 0.0, "q2": 1.0, "q3": 1.0, "q4": 1.0, "q5": 1.0, "q6": 1.0, "q7": 1.0, "q8": 1.0, "q9": 1.0, "q10": 1.0, "q11": 1.0, "q12": 1.0, "q13": 1.0, "q14": 1.0, "q15": 1.0, "q16": 1.0, "q17": 1.0, "q18": 1.0, "q19": 1.0, "q20": 1.0, "q21": 1.0, "q22": 1.0, "q23": 1.0, "q24": 1.0, "q25": 1.0, "q26": 1.0, "q27": 1.0, "q28": 1.0, "q29": 1.0, "q30": 1.0, "q31": 1.0, "q32": 1.0, "q33": 1.0, "q34": 1.0, "q35": 0.0, "q36": 1.0, "q37": 1.0, "q38": 1.0, "q39": 1.0, "q40": 1.0, "q41": 1.0, "q42": 1.0, "q43": 1.0, "q44": 1.0, "q45": 1.0, "q46": 1.0, "q47": 1.0, "q48": 1.0, "q49": 1.0, "q50": 1.0, "q51": 1.0, "q52": 1.0, "q53": 1.0, "q54": 1.0, "q55": 1.0, "q56": 1.0, "q57": 1.0, "q58": 0.0, "q59": 1.0}}, "latency": null, "queries": 60, "reasons": [], "findings": [{"value": "pass", "sentence": "recall@10 rises by 0.0333 against revision a100 (0.9500 to 0.9833 on 60 queries; 95 % interval -0.0553 to +0.1266): a drop of more than the allowed 1.0000 is excluded."}], "same_ids": 0, "comparison": {"k": 10, "new": "b200", "old": "a100", "won": [{"new": 1.0, "old": 0.0, "query": "q1", "new_ranking": ["d00001", "d00020", "d00047", "d00018", "d00056", "d00030", "d00003", "d00043", "d00031", "d00024"], "old_ranking": ["d00006", "d00025", "d00020", "d00059", "d00011", "d00026", "d00022", "d00008", "d00027", "d00054"]}, {"new": 1.0, "old": 0.0, "query": "q58", "new_ranking": ["d00050", "d00008", "d00058", "d00023", "d00037", "d00018", "d00041", "d00004", "d00027", "d00026"], "old_ranking": ["d00048", "d00020", "d00028", "d00052", "d00009", "d00049", "d00053", "d00004", "d00007", "d00003"]}, {"new": 1.0, "old": 0.0, "query": "q35", "new_ranking": ["d00059", "d00010", "d00019", "d00039", "d00035", "d00028", "d00023", "d00047", "d00043", "d00049"], "old_ranking": ["d00020", "d00025", "d00040", "d00053", "d00010", "d00028", "d00038", "d00013", "d00054", "d00019"]}], "lost": [{"new": 0.0, "old": 1.0, "query": "q11", "new_ranking": ["d00001", "d00024", "d00009", "d00031", "d00015", "d00038", "d00013", "d00021", "d00055", "d00045"], "old_ranking": ["d00011", "d00025", "d00020", "d00004", "d00010", "d00006", "d00008", "d00021", "d00044", "d00049"]}], "slices": [{"name": "short (up to 2 words)", "field": "length", "recall": {"p": 0.625, "new": {"low": 0.9108896084896637, "high": 0.9995669531888185, "mean": 0.9833333333333333}, "old": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "needed": null, "queries": 60, "deviation": 0.2581988897471611, "detectable": 0.12107558320765284, "difference": {"low": -0.05530605790213978, "high": 0.12656970747575577, "mean": 0.03333333333333333}}, "minimum": 30, "queries": 60, "high_of_all": 0.12656970747575577}], "ceiling": 1.0, "metrics": {"hit": {"p": 0.625, "new": {"low": 0.9108896084896637, "high": 0.9995669531888185, "mean": 0.9833333333333333}, "old": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "needed": 1, "queries": 60, "deviation": 0.2581988897471611, "detectable": 0.12107558320765284, "difference": {"low": -0.05530605790213978, "high": 0.12656970747575577, "mean": 0.03333333333333333}}, "mrr": {"p": 0.6775322467753224, "new": {"low": 0.5062072765484319, "high": 0.6974665363922242, "mean": 0.6028835978835979}, "old": {"low": 0.47833328413744086, "high": 0.6704821140231078, "mean": 0.5770833333333335}, "needed": 1, "queries": 60, "deviation": 0.48749271355789053, "detectable": 0.19906249201978218, "difference": {"low": -0.11998938159927082, "high": 0.16616744345108542, "mean": 0.025800264550264542}}, "ndcg": {"p": 0.6034396560343965, "new": {"low": 0.6124481493265882, "high": 0.7685954601931592, "mean": 0.6949584277090702}, "old": {"low": 0.5798218477289528, "high": 0.7445623820322349, "mean": 0.6685151420946817}, "needed": 1, "queries": 60, "deviation": 0.39748837072952115, "detectable": 0.16782409849485178, "difference": {"low": -0.09804891579224902, "high": 0.14392210114273107, "mean": 0.026443285614388776}}, "recall": {"p": 0.625, "new": {"low": 0.9108896084896637, "high": 0.9995669531888185, "mean": 0.9833333333333333}, "old": {"low": 0.8600174270326053, "high": 0.9897995495716093, "mean": 0.95}, "needed": 1, "queries": 60, "deviation": 0.2581988897471611, "detectable": 0.12107558320765284, "difference": {"low": -0.05530605790213978, "high": 0.12656970747575577, "mean": 0.03333333333333333}}}, "queries": 60, "documents": 60, "confidence": 0.95, "fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9", "saturated_by": []}, "difference": {"low": -0.05530605790213978, "high": 0.12656970747575577, "mean": 0.03333333333333333}, "queries_lost": 0, "own_documents": 0, "documents_seen": 60, "unjudged_queries": 0, "unknown_documents": 0, "labels_fingerprint": "600a74518fb8b5cb8945033141047885bcbf8e962ccd49019e779ac5ce51d0b9"}', 60, 12, '2026-11-30 02:46:49.142025+00', 'pass');


--
-- Data for Name: generation; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.generation OVERRIDING SYSTEM VALUE VALUES
	(1, 1, 'a100', 'idx_docs_g1', '{"gate": {"k": 10, "slices": [], "max_drop": 1.0, "confidence": 0.95, "min_recall": 0.0, "min_overlap": null, "min_queries": 1, "min_fidelity": 0.99, "shadow_hours": 0.0, "max_slice_drop": null, "max_latency_ratio": null}, "index": {"m": 16, "kind": "hnsw", "rerank": 4, "storage": "vector", "quantize": "none", "ef_search": 100, "ef_construction": 100}, "model": {"dim": 8, "name": "hashing", "dtype": "float32", "commit": null, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": "", "max_unknown_tokens": 0.5}, "message": "a100", "chunking": {"unit": "tokens", "max_tokens": 256, "max_sentences": 5, "min_sentences": 3, "overlap_tokens": 32}, "revision": "a100", "down_revision": null}', 'd2f39951c58dfe5191bd9d49821b358fe8375a0613d45d0d3e0c8710f7f497a9', 'e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1', 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', '{"dim": 8, "kind": "hashing", "seed": 0, "dtype": "float32", "algorithm": 1, "libraries": {}, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": ""}', '\x549d2f3effb503bf549d2fbe549d2fbe549d2fbe549d2f3f549dafbe549d2f3e0000000000000000000000009be8213ec2624abfe8dcf2be9be8a1be9be821be520c023e520c023e7c12c33e520c02bf000000007c12c3be678f22bf520c023e2ef964be2ef9643e000000002ef964bee2ba2bbf2ef9e4be2ef9e4be00000000000000004a51da3e4a51da3e4a515a3e4a51da3e4a515a3e4a51dabe4a51dabe520c82be520c82be520c02be520c823e7c12433f7c12c3be520c823e000000009084413e908441be00000000908441bf0000000000000000908441be6c2311bf0000000000000000000000000000003f000000bf0000003f00000000000000bf3acd133e3acd933e3acd933e3acd133ed8b3ddbe3acd133fd8b3dd3e3acd93beeb05d13e00000000eb05d1beeb05d13eeb05d1beeb05d1beeb05d1be000000003acd933e00000000000000003acd93be3acd93be3acd93be3acd133f3acd133feb05d13e00000000eb05d1beeb05d13eeb05d1beeb05d13e00000000eb05d13e0000003f0000000000000000000000bf00000000000000bf000000bf000000002ef964be2ef964be2ef9e4bee2ba2bbf000000002ef9e43e000000002ef9643ef304353ef304b5bef30435bef304b53ef304b53ef304353ff304353ef304353e12a1bfbe2e9822be12a1bf3eea03b4bede5d0bbda66f453e4b8f05bf01a802bf', 'retired', false, true, true, 48, false, '2026-11-30 02:46:42.868954+00', '2026-11-30 02:46:45.040971+00', '2026-11-30 02:46:49.404616+00', 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', '{}', '{}'),
	(3, 1, 'c300', 'idx_docs_g3', '{"gate": {"k": 10, "slices": [], "max_drop": 1.0, "confidence": 0.95, "min_recall": 0.0, "min_overlap": null, "min_queries": 1, "min_fidelity": 0.99, "shadow_hours": 0.0, "max_slice_drop": null, "max_latency_ratio": null}, "index": {"m": 16, "kind": "hnsw", "rerank": 4, "storage": "vector", "quantize": "none", "ef_search": 100, "ef_construction": 100}, "model": {"dim": 8, "name": "hashing", "dtype": "float32", "commit": null, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": "", "max_unknown_tokens": 0.5}, "message": "c300", "chunking": {"unit": "tokens", "max_tokens": 256, "max_sentences": 5, "min_sentences": 3, "overlap_tokens": 32}, "revision": "c300", "down_revision": "b200"}', 'd2f39951c58dfe5191bd9d49821b358fe8375a0613d45d0d3e0c8710f7f497a9', 'e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1', 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', '{"dim": 8, "kind": "hashing", "seed": 0, "dtype": "float32", "algorithm": 1, "libraries": {}, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": ""}', '\x549d2f3effb503bf549d2fbe549d2fbe549d2fbe549d2f3f549dafbe549d2f3e0000000000000000000000009be8213ec2624abfe8dcf2be9be8a1be9be821be520c023e520c023e7c12c33e520c02bf000000007c12c3be678f22bf520c023e2ef964be2ef9643e000000002ef964bee2ba2bbf2ef9e4be2ef9e4be00000000000000004a51da3e4a51da3e4a515a3e4a51da3e4a515a3e4a51dabe4a51dabe520c82be520c82be520c02be520c823e7c12433f7c12c3be520c823e000000009084413e908441be00000000908441bf0000000000000000908441be6c2311bf0000000000000000000000000000003f000000bf0000003f00000000000000bf3acd133e3acd933e3acd933e3acd133ed8b3ddbe3acd133fd8b3dd3e3acd93beeb05d13e00000000eb05d1beeb05d13eeb05d1beeb05d1beeb05d1be000000003acd933e00000000000000003acd93be3acd93be3acd93be3acd133f3acd133feb05d13e00000000eb05d1beeb05d13eeb05d1beeb05d13e00000000eb05d13e0000003f0000000000000000000000bf00000000000000bf000000bf000000002ef964be2ef964be2ef9e4bee2ba2bbf000000002ef9e43e000000002ef9643ef304353ef304b5bef30435bef304b53ef304b53ef304353ff304353ef304353e12a1bfbe2e9822be12a1bf3eea03b4bede5d0bbda66f453e4b8f05bf01a802bf', 'provisioned', true, false, false, 48, false, '2026-11-30 02:46:50.14238+00', NULL, NULL, 'e957135d11aac2ce125a76bb2e238f199e2e507e2848ba7e1fe9e9f5e5113bf0', '{}', '{}'),
	(2, 1, 'b200', 'idx_docs_g2', '{"gate": {"k": 10, "slices": [], "max_drop": 1.0, "confidence": 0.95, "min_recall": 0.0, "min_overlap": null, "min_queries": 1, "min_fidelity": 0.99, "shadow_hours": 0.0, "max_slice_drop": null, "max_latency_ratio": null}, "index": {"m": 16, "kind": "hnsw", "rerank": 4, "storage": "vector", "quantize": "none", "ef_search": 100, "ef_construction": 100}, "model": {"dim": 8, "name": "hashing:seed2", "dtype": "float32", "commit": null, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": "", "max_unknown_tokens": 0.5}, "message": "b200", "chunking": {"unit": "tokens", "max_tokens": 256, "max_sentences": 5, "min_sentences": 3, "overlap_tokens": 32}, "revision": "b200", "down_revision": "a100"}', '560858331810c63998d0edbee85fca8110acb8ed8970fd00d8a29aa97389bd10', 'e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1', 'fb36c3a5594921866bc88a3c1c6954892704f8ff315e66b13079b17547d83604', '{"dim": 8, "kind": "hashing", "seed": 2, "dtype": "float32", "algorithm": 1, "libraries": {}, "normalize": true, "max_tokens": 256, "query_prompt": "", "document_prompt": ""}', '\x77d6883e77d6083f77d688be77d6883e77d608bf77d688be77d6883e77d688be304662bf0000000000000000f304353ef304b53ef30435bef304353e00000000f05bf1bdf05bf1bd00000000f05bf13ef05bf13e76d916bff404b5bef05b713ec3d090bec3d0903e2439593fc3d0103e0000000000000000c3d010bec3d090be00000000d5008ebe4001d5bed5000e3e4001d53ed5008ebe4001d53ed5000e3fabd2c8be00000000abd2c8be009e16bfabd2483eabd2c8beabd2c8be000000000000803e0000203f0000c03e0000803e000000be000000be000000bf0000803e00000000000000bf000000000000003f000000bf00000000000000000000003feb05d1be00000000eb05513eeb05d1beeb05d13eeb05513e70c41c3feb05513e0000000000000000000000009be8a13e000000009be821bf9be8a1be9be821bf3acd13bf3acd93be000000003acd93be000000003acd93be3acd933e3acd133f000000009be821bf000000009be8a13e9be8a13e9be821bf0000000000000000000000000000000000000000f30435bf000000000000000000000000f304353fb241cd3e77d6083f77d608be77d688beb241cd3e77d6083e0000000077d6083f549dafbe549d2f3e549d2f3e549d2f3e549d2f3f549d2f3effb503bf549d2f3e75a5f43b5704acbe4a00ed3e3e42113fae4ebb3e1e5be5bee6f7013e75a5743c', 'completed', true, false, true, 48, false, '2026-11-30 02:46:45.347481+00', '2026-11-30 02:46:49.359055+00', NULL, 'fb36c3a5594921866bc88a3c1c6954892704f8ff315e66b13079b17547d83604', '{}', '{}');


--
-- Data for Name: idx_docs_g2; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.idx_docs_g2 VALUES
	('d00000', 0, 1, 0, 37, '[-0.31622776,0.15811388,-0.15811388,0,-0.6324555,0.15811388,0.15811388,-0.6324555]'),
	('d00001', 0, 2, 0, 37, '[-0.57735026,-0.28867513,-0.28867513,0,-0.28867513,0.57735026,0.28867513,0]'),
	('d00002', 0, 3, 0, 37, '[-0.40824828,0.20412414,0,0.6123724,-0.40824828,0.20412414,0.40824828,-0.20412414]'),
	('d00003', 0, 4, 0, 37, '[0,0.40824828,-0.40824828,0.20412414,-0.6123724,0.40824828,0.20412414,-0.20412414]'),
	('d00004', 0, 5, 0, 37, '[0,0.27216554,0.13608277,0.5443311,-0.68041384,0.27216554,0,-0.27216554]'),
	('d00005', 0, 6, 0, 37, '[0.15075567,0,0,0.6030227,-0.6030227,0.15075567,0.452267,-0.15075567]'),
	('d00006', 0, 7, 0, 37, '[-0.23570228,0.23570228,-0.47140455,0,-0.47140455,0,0.47140455,-0.47140455]'),
	('d00007', 0, 8, 0, 37, '[-0.2948839,0.2948839,-0.2948839,0.44232586,-0.5897678,0.14744195,0.2948839,-0.2948839]'),
	('d00008', 0, 9, 0, 37, '[0.5144958,0.3429972,-0.3429972,0.3429972,-0.3429972,0.3429972,0.1714986,-0.3429972]'),
	('d00009', 0, 10, 0, 37, '[-0.31622776,-0.31622776,-0.15811388,0.47434163,-0.6324555,0.15811388,-0.15811388,-0.31622776]'),
	('d00010', 0, 11, 0, 40, '[-0.16222142,0.48666427,-0.48666427,0.32444283,-0.48666427,-0.16222142,0.32444283,-0.16222142]'),
	('d00011', 0, 12, 0, 40, '[-0.35355338,0,-0.17677669,0.5303301,-0.35355338,0.35355338,0.17677669,-0.5303301]'),
	('d00012', 0, 13, 0, 40, '[-0.19611613,0.39223227,0.19611613,0.5883484,-0.5883484,-0.19611613,0.19611613,0]'),
	('d00013', 0, 14, 0, 40, '[-0.36514837,0,-0.18257418,0.73029673,-0.36514837,0.36514837,0.18257418,0]'),
	('d00014', 0, 15, 0, 40, '[-0.114707865,0.22941573,-0.45883146,0.22941573,-0.45883146,0.114707865,0.3441236,-0.5735393]'),
	('d00015', 0, 16, 0, 40, '[-0.36514837,0,-0.18257418,0.36514837,-0.36514837,0.5477225,0.36514837,-0.36514837]'),
	('d00016', 0, 17, 0, 40, '[-0.15811388,0.15811388,-0.15811388,0.15811388,-0.6324555,0,0.31622776,-0.6324555]'),
	('d00017', 0, 18, 0, 40, '[0,0,0,0.18898225,-0.755929,-0.18898225,0.56694674,-0.18898225]'),
	('d00018', 0, 19, 0, 40, '[0.26726124,0.26726124,0.26726124,0.5345225,-0.5345225,0.26726124,0.26726124,0.26726124]'),
	('d00019', 0, 20, 0, 40, '[-0.13608277,0.5443311,-0.13608277,0.5443311,-0.40824828,0.13608277,0.13608277,-0.40824828]'),
	('d00020', 0, 21, 0, 40, '[-0.32444283,0.32444283,-0.32444283,0.32444283,-0.64888567,0.32444283,0.16222142,0.16222142]'),
	('d00021', 0, 22, 0, 40, '[-0.15430336,-0.15430336,-0.3086067,0.46291006,-0.6172134,0.15430336,0.15430336,-0.46291006]'),
	('d00022', 0, 23, 0, 40, '[0,0.14433756,-0.14433756,0.43301272,-0.57735026,0.14433756,0.57735026,-0.28867513]'),
	('d00023', 0, 24, 0, 40, '[0,0.4472136,-0.4472136,0.2236068,-0.67082036,0,-0.2236068,-0.2236068]'),
	('d00024', 0, 25, 0, 40, '[-0.40824828,-0.20412414,-0.20412414,0,-0.6123724,0.20412414,0.40824828,-0.40824828]'),
	('d00025', 0, 26, 0, 40, '[-0.20412414,0.40824828,0,0.40824828,-0.40824828,-0.20412414,-0.20412414,-0.6123724]'),
	('d00026', 0, 27, 0, 40, '[-0.16666667,0.16666667,-0.33333334,0.5,-0.6666667,0,-0.16666667,-0.33333334]'),
	('d00027', 0, 28, 0, 40, '[0,0.2236068,-0.4472136,0.2236068,-0.67082036,-0.2236068,0,-0.4472136]'),
	('d00028', 0, 29, 0, 40, '[-0.19611613,0.39223227,-0.39223227,0.39223227,-0.39223227,0.19611613,0.39223227,-0.39223227]'),
	('d00029', 0, 30, 0, 40, '[-0.33333334,0.16666667,-0.16666667,0,-0.6666667,-0.5,0.16666667,-0.33333334]'),
	('d00030', 0, 31, 0, 40, '[0,0.21320072,-0.21320072,0.21320072,-0.6396021,0.21320072,0.6396021,0]'),
	('d00031', 0, 32, 0, 40, '[-0.28867513,0.14433756,0,0.14433756,-0.57735026,0.57735026,0.14433756,-0.43301272]'),
	('d00032', 0, 33, 0, 40, '[0,0.18257418,0,0.73029673,-0.36514837,0.5477225,0,0]'),
	('d00033', 0, 34, 0, 40, '[-0.40824828,0.20412414,0.40824828,0.6123724,-0.40824828,0.20412414,0,-0.20412414]'),
	('d00034', 0, 35, 0, 40, '[-0.39223227,0.39223227,-0.19611613,0.39223227,-0.39223227,0,0,-0.5883484]'),
	('d00035', 0, 36, 0, 40, '[-0.28867513,0.43301272,-0.14433756,0.57735026,-0.43301272,0.14433756,0.28867513,-0.28867513]'),
	('d00036', 0, 37, 0, 40, '[0,0.18257418,-0.36514837,0.73029673,-0.36514837,-0.18257418,0,-0.36514837]'),
	('d00037', 0, 38, 0, 40, '[0,0.21320072,-0.42640144,0.21320072,-0.8528029,0,0,0]'),
	('d00038', 0, 39, 0, 40, '[0,-0.23570228,0,0.23570228,-0.47140455,0.47140455,0.47140455,-0.47140455]'),
	('d00039', 0, 40, 0, 40, '[-0.452267,0.452267,-0.452267,0.30151135,-0.452267,0,0,-0.30151135]'),
	('d00040', 0, 41, 0, 40, '[-0.2948839,0,-0.44232586,0.2948839,-0.2948839,0.44232586,0,-0.5897678]'),
	('d00041', 0, 42, 0, 40, '[0.19611613,0.19611613,0,0.39223227,-0.39223227,0,0,-0.78446454]'),
	('d00042', 0, 43, 0, 40, '[-0.5477225,0.36514837,-0.18257418,0.36514837,-0.5477225,0.18257418,-0.18257418,-0.18257418]'),
	('d00043', 0, 44, 0, 40, '[-0.28284273,0.56568545,-0.42426407,0,-0.56568545,0,0.14142136,-0.28284273]'),
	('d00044', 0, 45, 0, 40, '[-0.35355338,0.17677669,-0.17677669,0.70710677,-0.35355338,0.17677669,0.17677669,-0.35355338]'),
	('d00045', 0, 46, 0, 40, '[-0.21320072,0,-0.21320072,0.42640144,-0.42640144,0.42640144,0.42640144,-0.42640144]'),
	('d00046', 0, 47, 0, 40, '[-0.47434163,0.15811388,0.15811388,0.31622776,-0.6324555,0,0,-0.47434163]'),
	('d00047', 0, 48, 0, 40, '[-0.2236068,0.4472136,-0.4472136,0.2236068,-0.2236068,0.4472136,0.4472136,-0.2236068]'),
	('d00048', 0, 49, 0, 40, '[-0.18257418,0.18257418,-0.18257418,0.18257418,-0.5477225,-0.36514837,0.36514837,-0.5477225]'),
	('d00049', 0, 50, 0, 40, '[-0.13867505,0.41602516,-0.13867505,0.5547002,-0.2773501,0.2773501,0.13867505,-0.5547002]'),
	('d00050', 0, 51, 0, 40, '[0.42640144,0.21320072,-0.21320072,0.42640144,-0.42640144,0.42640144,0,-0.42640144]'),
	('d00052', 0, 53, 0, 40, '[-0.16222142,0.32444283,-0.32444283,0.48666427,-0.48666427,-0.16222142,0.16222142,-0.48666427]'),
	('d00053', 0, 54, 0, 40, '[-0.17677669,-0.17677669,0,0.35355338,-0.5303301,0,0.70710677,-0.17677669]'),
	('d00054', 0, 55, 0, 40, '[-0.2948839,0.2948839,0,0.2948839,-0.5897678,0.14744195,0.5897678,-0.14744195]'),
	('d00055', 0, 56, 0, 40, '[-0.42640144,0.21320072,0.21320072,0.21320072,-0.6396021,0.21320072,0.21320072,-0.42640144]'),
	('d00056', 0, 57, 0, 40, '[-0.6123724,0.40824828,0.20412414,0.40824828,-0.20412414,0.20412414,0.40824828,0]'),
	('d00057', 0, 58, 0, 40, '[-0.46291006,0.15430336,-0.15430336,0.46291006,-0.3086067,0.15430336,0.15430336,-0.6172134]'),
	('d00058', 0, 59, 0, 40, '[0.18257418,0.36514837,0,0.36514837,-0.73029673,0.18257418,0,-0.36514837]'),
	('d00059', 0, 60, 0, 40, '[0,0.6324555,0,0.6324555,-0.31622776,0,0,-0.31622776]'),
	('d00060', 0, 61, 0, 40, '[-0.11785114,0.23570228,-0.11785114,0.3535534,-0.7071068,0.11785114,0.23570228,-0.47140455]'),
	('d00061', 0, 62, 0, 40, '[0,-0.15430336,-0.3086067,0.46291006,-0.77151674,0.15430336,0.15430336,-0.15430336]');


--
-- Data for Name: idx_docs_g3; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: lease; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.lease VALUES
	(1, 15, 'tester', '2026-11-30 02:46:50.12109+00');


--
-- Data for Name: ledger_g2; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.ledger_g2 VALUES
	(2, 'd00000', 1, false, 1, '24169db222822b32df2471d3222d476328a4f68e47adef1ef51604112d7b4809', '2026-11-30 02:46:45.886771+00', NULL),
	(2, 'd00001', 2, false, 1, 'e99491274a7ab807698775a0467a0927c6ac5062b15da5c555409ad8bbd6c1d5', '2026-11-30 02:46:45.887098+00', NULL),
	(2, 'd00002', 3, false, 1, '2bd12ee533d2d6d3dd8fc7a1e7eb6315b19b338ad90e18dc0f37c9895162f8ca', '2026-11-30 02:46:45.887114+00', NULL),
	(2, 'd00003', 4, false, 1, '19cf48547e0dddab2bf820e26f62cf173a2228764c5d4e72241fede03029cea1', '2026-11-30 02:46:45.887123+00', NULL),
	(2, 'd00004', 5, false, 1, 'c2e6ee259f7bdf3aaa7399ee2b795a4bdf6112b1cf1e4a9cb3185171c6535854', '2026-11-30 02:46:45.88713+00', NULL),
	(2, 'd00005', 6, false, 1, 'e4aab7b635d4834d17e3a9278ccc49974d9dbe0dc073650c662e1aefb974a8d6', '2026-11-30 02:46:45.887138+00', NULL),
	(2, 'd00006', 7, false, 1, 'e55d33c2c2877c7ed7dcf170ec62045a6660e8fb4c677f8a253e730a7ccb8b55', '2026-11-30 02:46:45.887145+00', NULL),
	(2, 'd00007', 8, false, 1, 'cc43c52f6119935bf377025a52654f93212bff461991a35880e2159517dac63d', '2026-11-30 02:46:45.887153+00', NULL),
	(2, 'd00008', 9, false, 1, '275593708e7ef34d0962f67dda3a8cbd3bf6626557ae070cb604804e1c21eb10', '2026-11-30 02:46:45.88716+00', NULL),
	(2, 'd00009', 10, false, 1, '005b8efdc8f584f777d3a9c90991d5d35732b6d8c9745853aa81456d6df931c9', '2026-11-30 02:46:45.887168+00', NULL),
	(2, 'd00010', 11, false, 1, '4025ef6408750889a0c45d3555b3e77de05fbe46bfdc4b1271ec9909e8dde57d', '2026-11-30 02:46:45.887176+00', NULL),
	(2, 'd00011', 12, false, 1, '73c94e19015627ac43b24f6c2c1040abcc72e6718b19a3e4cdacb60c86ab434a', '2026-11-30 02:46:45.887183+00', NULL),
	(2, 'd00012', 13, false, 1, 'a28cd4cc125721707def3927e69ccec9cb615aab503dca94fbcecc8444e4dad6', '2026-11-30 02:46:45.88719+00', NULL),
	(2, 'd00013', 14, false, 1, 'e05e9ee0425f7e244b8f027e7471671f7709353403bba9dad70ce2e315631321', '2026-11-30 02:46:45.887199+00', NULL),
	(2, 'd00014', 15, false, 1, '807768ea9b1aa3cad9cd298c8253b406094661c986dc0d5f090375e98cc150d2', '2026-11-30 02:46:45.887208+00', NULL),
	(2, 'd00015', 16, false, 1, 'a4494b5545a25a447ec6a8ecda56244bc4e4aa0faadc6ec10aaf733ce572a65c', '2026-11-30 02:46:45.887216+00', NULL),
	(2, 'd00016', 17, false, 1, '5bf8f13694da22292d6aa999301b245fee1b475465383649ecf5608c0db81c50', '2026-11-30 02:46:45.887224+00', NULL),
	(2, 'd00017', 18, false, 1, '22dc51a87d60d6dc19f0bceb7b9c231534bf7d347d4ac432c6af5227ea23eda8', '2026-11-30 02:46:45.887232+00', NULL),
	(2, 'd00018', 19, false, 1, '6dbc401f3c80a9bf5b169cf619eda696151f5b1e30be7db602772eea9c623913', '2026-11-30 02:46:45.88724+00', NULL),
	(2, 'd00019', 20, false, 1, '16da6b4bade64daa6ef18ac735187055cbda87531d8502ce6ff82608bf06ab16', '2026-11-30 02:46:45.887247+00', NULL),
	(2, 'd00020', 21, false, 1, '677c4780e37118a4f4be6c5c0b0089bfd7dfa265e8880d1a5d6855900549639a', '2026-11-30 02:46:45.887255+00', NULL),
	(2, 'd00021', 22, false, 1, 'bde25f5bf0fe2fd3b7d6b4be8ffeb4f630237964cc14fa4943f5e93f0ed3e2d5', '2026-11-30 02:46:45.887263+00', NULL),
	(2, 'd00022', 23, false, 1, '4b81bcd962f9c0d94cbf133a0c7183e8974493cca0423fec2a208063554d0d39', '2026-11-30 02:46:45.88727+00', NULL),
	(2, 'd00023', 24, false, 1, 'eca5c4081cc30604a371148682fd46a2b22f3d213b614ed76f849c3ae5d7240c', '2026-11-30 02:46:45.887277+00', NULL),
	(2, 'd00024', 25, false, 1, '6a281e38ffaff804a9c12a47516aa912d5b9e28d67e7e7e62757a66ef019c237', '2026-11-30 02:46:45.887312+00', NULL),
	(2, 'd00025', 26, false, 1, 'b953b09d02824743f53b950d192eae362fc77ec7363836b564e905872477c29d', '2026-11-30 02:46:45.887319+00', NULL),
	(2, 'd00026', 27, false, 1, 'fdab499931708c0c86b5b84116f2a14edb2c4566c46c6b74aa577880cd5358b5', '2026-11-30 02:46:45.887327+00', NULL),
	(2, 'd00027', 28, false, 1, 'a022c710b243fd5579b258835047174a441254f06ceb5244fbdd2e922e631d8f', '2026-11-30 02:46:45.887334+00', NULL),
	(2, 'd00028', 29, false, 1, 'f77602733ac06d7a69129c3c505900f02d7f0d061c282dc9ff76f87f2758d266', '2026-11-30 02:46:45.887342+00', NULL),
	(2, 'd00029', 30, false, 1, '665d13ec2354352b58e44aabbe01dcd7352ecdf9cb6a34fc79534778627c532d', '2026-11-30 02:46:45.887349+00', NULL),
	(2, 'd00030', 31, false, 1, '0b5945a63957cca95c0f30ff14e0142eaa84318ae826b75cc102638e3e5247ea', '2026-11-30 02:46:46.195257+00', NULL),
	(2, 'd00031', 32, false, 1, 'fa42dfbd967b94381122cb6846cead75238d935d76c0d0c75ae5b05fb5983c54', '2026-11-30 02:46:46.195455+00', NULL),
	(2, 'd00032', 33, false, 1, '99d37b0a20643b456a96b8cee590a356641d5519234f6c49636e0f83409f8610', '2026-11-30 02:46:46.195469+00', NULL),
	(2, 'd00033', 34, false, 1, '661e3b230f1eff1ef255ec35fe130c55461b792a968f26b02288e587325404c0', '2026-11-30 02:46:46.195478+00', NULL),
	(2, 'd00034', 35, false, 1, 'aac073efb460ef714ce93b4b2e198b7d68dc7cf249d3ca1744d8d47ef3776c60', '2026-11-30 02:46:46.195488+00', NULL),
	(2, 'd00035', 36, false, 1, '6c297d56dff8f1e8cd42cac0fdf82458ed3ce4f54c6b4e7f1f28a4b14c85a06f', '2026-11-30 02:46:46.195496+00', NULL),
	(2, 'd00036', 37, false, 1, '9cda313b4b14e29723e9b35c2f04bf2dbf323281d56deca3ad4ac0e18bf278f4', '2026-11-30 02:46:46.195507+00', NULL),
	(2, 'd00037', 38, false, 1, 'b9dac83e1c6b29e4b9a260149982acb205d36c0eada8151a05e5514bc896dbbd', '2026-11-30 02:46:46.195515+00', NULL),
	(2, 'd00038', 39, false, 1, '14c8a41ad2ddacceeb6263f6c27b7dad9bf03a838aa6da82a412194ade34fa99', '2026-11-30 02:46:46.195524+00', NULL),
	(2, 'd00039', 40, false, 1, '2ae4f9451391fa47a5a67481f946f03313df0e686f0d7ffacaea26eaa6206b4d', '2026-11-30 02:46:46.195558+00', NULL),
	(2, 'd00040', 41, false, 1, '2d89041b24ae152ed41a8e55a7c86141a3ec234e6842f204f9dd9ec9a877149b', '2026-11-30 02:46:46.195568+00', NULL),
	(2, 'd00041', 42, false, 1, 'a8af0ea9d99d6691b2cf036713f6fa90db0a6d2a0f97c2061fd716ae6824ddb5', '2026-11-30 02:46:46.195577+00', NULL),
	(2, 'd00042', 43, false, 1, 'ef9ddd88464a3f0ec4e48aa6083ca44f4b6c7f4cbc6f44649460cc39d4644fae', '2026-11-30 02:46:46.195585+00', NULL),
	(2, 'd00043', 44, false, 1, 'fbb2c1de3b8e4748ade930b73bc5b71e349b691dbf319a24899d8d4913aa92f1', '2026-11-30 02:46:46.195594+00', NULL),
	(2, 'd00044', 45, false, 1, '200fabf07ffeda3c4a9c79a5e84f3148644dbec5c07eb2d08efe89c45faa4a1c', '2026-11-30 02:46:46.195602+00', NULL),
	(2, 'd00045', 46, false, 1, '19be840b659a652f699558f4b0a6c9c9ed08abb82e4ed48a04b99438eb099525', '2026-11-30 02:46:46.19561+00', NULL),
	(2, 'd00046', 47, false, 1, '4f46ab0d511cff2eb9b4c3b1101223d3c9ec002c5b2dccbc5e6d0d5cf7d08ab1', '2026-11-30 02:46:46.195618+00', NULL),
	(2, 'd00047', 48, false, 1, '35fc8efebbd80bbaf07be0ac865b1f3dd5f14ae81bd24b51ae58046b476bea8b', '2026-11-30 02:46:46.195627+00', NULL),
	(2, 'd00048', 49, false, 1, '85fd0039a4a15311e901c7cf09e8e3b46df41051840ed2da5eaffb594b97397e', '2026-11-30 02:46:46.195635+00', NULL),
	(2, 'd00049', 50, false, 1, 'be141e2ff36b60608d48e699f9e1b04a125da2c60deb719ac523c73d7c11ce89', '2026-11-30 02:46:46.195644+00', NULL),
	(2, 'd00050', 51, false, 1, '05e41add4ca93a8f5deb08ee23fc8d5838fc5cae5903e803a62ec640f62a9ac2', '2026-11-30 02:46:46.195653+00', NULL),
	(2, 'd00052', 53, false, 1, '0a4825563c580994ed10e51e54a868a2ace0e4e318ac1a0c57d7e67c0fe0e03e', '2026-11-30 02:46:46.195678+00', NULL),
	(2, 'd00053', 54, false, 1, 'd63fc9815cb0da090461cd76157f0c6c21a4f0c198f8c5193ec6c8ca37f60758', '2026-11-30 02:46:46.195686+00', NULL),
	(2, 'd00054', 55, false, 1, '128248227ce1bf8be81156337bce1076bc88d4b30a7e80e8e19bbee4fdb27222', '2026-11-30 02:46:46.195693+00', NULL),
	(2, 'd00055', 56, false, 1, '5b6d82a50e4989ec084f7004c08afe35be6c8eafbad2567767d38d4264f3dbe7', '2026-11-30 02:46:46.195702+00', NULL),
	(2, 'd00056', 57, false, 1, 'ff43e1d0727b8c5e3959363fe5ae6b35935aa3f10430d6e0c8ec0e0baf918ad5', '2026-11-30 02:46:46.195713+00', NULL),
	(2, 'd00057', 58, false, 1, '4f780b3d5b9b20d778872d3fa9758b6bbf7b278f4dfda2f3f4127c27fb5747cd', '2026-11-30 02:46:46.195721+00', NULL),
	(2, 'd00058', 59, false, 1, '1b4e6bd9271afdb6d7f13eb4d9e0a18b158898c02454910383d23f94a8ea1324', '2026-11-30 02:46:46.195729+00', NULL),
	(2, 'd00059', 60, false, 1, '2b95657d7be99c2a5e3a603c9b03f5b01eadb2e9135a73150a8f61c7fabff242', '2026-11-30 02:46:46.196099+00', NULL),
	(2, 'd00060', 61, false, 1, '2361d975ecb2fe73312116c8197002ae68e7b3e5bdc847722d8b82fafc68e33f', '2026-11-30 02:46:49.643869+00', NULL),
	(2, 'd00061', 62, false, 1, '47bf9e5e6e524764cbfe51f201ee97f0f3837cce53a6edbfce2c1d7c792a7aca', '2026-11-30 02:46:49.644152+00', NULL),
	(2, 'd00051', 64, true, 0, NULL, '2026-11-30 02:46:49.64422+00', NULL);


--
-- Data for Name: ledger_g3; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: load_sample; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: part; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.part VALUES
	(2, 0, 0, '/srv/docs/.revector/archive/idx_docs_g2/shard-0000-0fc2d099a667.h5', 'c41eb32352602d1034f0fa98b85446ed5c921aab84cd606f9d1b29c7a43fc8e1', 30, 30, '2026-11-30 02:46:45.830116+00', '2026-11-30 02:46:45.894095+00', 'd00000', 'd00029'),
	(2, 1, 0, '/srv/docs/.revector/archive/idx_docs_g2/shard-0001-2aead86ca10b.h5', '01718188c27553ea1e15e6a2e5764f2186404e176237aae91fd0ec9ad137aad8', 30, 30, '2026-11-30 02:46:46.162579+00', '2026-11-30 02:46:46.208653+00', 'd00030', 'd00059');


--
-- Data for Name: pending; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.pending VALUES
	(2, 'd00001', 66, 'live', 'due', '2026-11-30 02:46:50.223476+00', '2026-11-30 02:46:50.223476+00', 0, NULL, NULL, NULL),
	(3, 'd00001', 66, 'live', 'due', '2026-11-30 02:46:50.223561+00', '2026-11-30 02:46:50.223561+00', 0, NULL, NULL, NULL),
	(2, 'd00002', 68, 'live', 'due', '2026-11-30 02:46:50.256907+00', '2026-11-30 02:46:50.256907+00', 0, NULL, NULL, NULL),
	(3, 'd00002', 68, 'live', 'due', '2026-11-30 02:46:50.256973+00', '2026-11-30 02:46:50.256973+00', 0, NULL, NULL, NULL);


--
-- Data for Name: rejected; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: schema_version; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.schema_version VALUES
	('0008');


--
-- Data for Name: server; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: shadow_read; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: shard; Type: TABLE DATA; Schema: revector; Owner: -
--

INSERT INTO revector.shard VALUES
	(2, 0, '', 'd00029', 'd00029', 30, true, true),
	(2, 1, 'd00029', NULL, 'd00059', 30, true, true),
	(3, 0, '', 'd00030', '', 31, false, false),
	(3, 1, 'd00030', NULL, 'd00030', 30, false, false);


--
-- Data for Name: spending; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Data for Name: waiver; Type: TABLE DATA; Schema: revector; Owner: -
--



--
-- Name: collection_cid_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.collection_cid_seq', 1, true);


--
-- Name: gate_result_id_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.gate_result_id_seq', 4, true);


--
-- Name: generation_gen_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.generation_gen_seq', 3, true);


--
-- Name: lease_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.lease_seq', 3, true);


--
-- Name: publish_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.publish_seq', 1, true);


--
-- Name: version_seq; Type: SEQUENCE SET; Schema: revector; Owner: -
--

SELECT pg_catalog.setval('revector.version_seq', 68, true);


--
-- Name: ledger a_tombstone_names_no_attempt; Type: CHECK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE revector.ledger
    ADD CONSTRAINT a_tombstone_names_no_attempt CHECK (((NOT deleted) OR (attempt IS NULL))) NOT VALID;


--
-- Name: api_key api_key_digest_key; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.api_key
    ADD CONSTRAINT api_key_digest_key UNIQUE (digest);


--
-- Name: api_key api_key_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.api_key
    ADD CONSTRAINT api_key_pkey PRIMARY KEY (key_id);


--
-- Name: archived archived_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.archived
    ADD CONSTRAINT archived_pkey PRIMARY KEY (path);


--
-- Name: canary canary_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.canary
    ADD CONSTRAINT canary_pkey PRIMARY KEY (cid, at);


--
-- Name: collection collection_name_key; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.collection
    ADD CONSTRAINT collection_name_key UNIQUE (name);


--
-- Name: collection collection_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.collection
    ADD CONSTRAINT collection_pkey PRIMARY KEY (cid);


--
-- Name: document document_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.document
    ADD CONSTRAINT document_pkey PRIMARY KEY (cid, doc_id);


--
-- Name: event event_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (cid, seq);


--
-- Name: gate_override gate_override_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.gate_override
    ADD CONSTRAINT gate_override_pkey PRIMARY KEY (result_id);


--
-- Name: gate_result gate_result_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.gate_result
    ADD CONSTRAINT gate_result_pkey PRIMARY KEY (id);


--
-- Name: generation generation_cid_gen_key; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.generation
    ADD CONSTRAINT generation_cid_gen_key UNIQUE (cid, gen);


--
-- Name: generation generation_physical_name_key; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.generation
    ADD CONSTRAINT generation_physical_name_key UNIQUE (physical_name);


--
-- Name: generation generation_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.generation
    ADD CONSTRAINT generation_pkey PRIMARY KEY (gen);


--
-- Name: idx_docs_g2 idx_docs_g2_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.idx_docs_g2
    ADD CONSTRAINT idx_docs_g2_pkey PRIMARY KEY (doc_id, chunk);


--
-- Name: idx_docs_g3 idx_docs_g3_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.idx_docs_g3
    ADD CONSTRAINT idx_docs_g3_pkey PRIMARY KEY (doc_id, chunk);


--
-- Name: intent intent_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.intent
    ADD CONSTRAINT intent_pkey PRIMARY KEY (gen, attempt);


--
-- Name: lease lease_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (cid);


--
-- Name: ledger ledger_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (gen, doc_id);


--
-- Name: ledger_g2 ledger_g2_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.ledger_g2
    ADD CONSTRAINT ledger_g2_pkey PRIMARY KEY (gen, doc_id);


--
-- Name: ledger_g3 ledger_g3_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.ledger_g3
    ADD CONSTRAINT ledger_g3_pkey PRIMARY KEY (gen, doc_id);


--
-- Name: load_sample load_sample_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.load_sample
    ADD CONSTRAINT load_sample_pkey PRIMARY KEY (cid, minute);


--
-- Name: part part_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.part
    ADD CONSTRAINT part_pkey PRIMARY KEY (gen, shard, part);


--
-- Name: pending pending_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.pending
    ADD CONSTRAINT pending_pkey PRIMARY KEY (gen, doc_id);


--
-- Name: rejected rejected_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.rejected
    ADD CONSTRAINT rejected_pkey PRIMARY KEY (cid, doc_id);


--
-- Name: schema_version schema_version_pkc; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.schema_version
    ADD CONSTRAINT schema_version_pkc PRIMARY KEY (version_num);


--
-- Name: server server_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.server
    ADD CONSTRAINT server_pkey PRIMARY KEY (server_id);


--
-- Name: shadow_read shadow_read_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.shadow_read
    ADD CONSTRAINT shadow_read_pkey PRIMARY KEY (gen, against, k, hour);


--
-- Name: shard shard_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (gen, shard);


--
-- Name: spending spending_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.spending
    ADD CONSTRAINT spending_pkey PRIMARY KEY (provider, day);


--
-- Name: waiver waiver_pkey; Type: CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.waiver
    ADD CONSTRAINT waiver_pkey PRIMARY KEY (gen, doc_id, version);


--
-- Name: archived_vectors; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX archived_vectors ON revector.archived USING btree (cid, vectors_fp, chunker_fp, first_id);


--
-- Name: canary_gen; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX canary_gen ON revector.canary USING btree (gen, at);


--
-- Name: document_meta; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX document_meta ON revector.document USING gin (meta jsonb_path_ops);


--
-- Name: document_version; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX document_version ON revector.document USING btree (cid, version);


--
-- Name: gate_result_gen; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX gate_result_gen ON revector.gate_result USING btree (gen, kind, id);


--
-- Name: generation_vectors; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX generation_vectors ON revector.generation USING btree (vectors_fp, chunker_fp) WHERE (NOT dropped);


--
-- Name: idx_docs_g2_hnsw; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX idx_docs_g2_hnsw ON revector.idx_docs_g2 USING hnsw (embedding public.vector_cosine_ops) WITH (m='16', ef_construction='100');


--
-- Name: intent_canary; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX intent_canary ON ONLY revector.intent USING btree (gen) WHERE (doc_id = ''::text);


--
-- Name: intent_garbage; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX intent_garbage ON ONLY revector.intent USING btree (state, created_at) WHERE ((state <> 'published'::text) OR (superseded_at IS NOT NULL));


--
-- Name: ledger_content; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX ledger_content ON ONLY revector.ledger USING btree (hashtextextended(content_hash, (0)::bigint)) WHERE (NOT deleted);


--
-- Name: ledger_g2_hashtextextended_idx; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX ledger_g2_hashtextextended_idx ON revector.ledger_g2 USING btree (hashtextextended(content_hash, (0)::bigint)) WHERE (NOT deleted);


--
-- Name: ledger_g3_hashtextextended_idx; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX ledger_g3_hashtextextended_idx ON revector.ledger_g3 USING btree (hashtextextended(content_hash, (0)::bigint)) WHERE (NOT deleted);


--
-- Name: pending_dead; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX pending_dead ON revector.pending USING btree (gen) WHERE (state = 'dead'::text);


--
-- Name: pending_due; Type: INDEX; Schema: revector; Owner: -
--

CREATE INDEX pending_due ON revector.pending USING btree (gen, lane, due_at) WHERE (state = 'due'::text);


--
-- Name: ledger_g2_hashtextextended_idx; Type: INDEX ATTACH; Schema: revector; Owner: -
--

ALTER INDEX revector.ledger_content ATTACH PARTITION revector.ledger_g2_hashtextextended_idx;


--
-- Name: ledger_g2_pkey; Type: INDEX ATTACH; Schema: revector; Owner: -
--

ALTER INDEX revector.ledger_pkey ATTACH PARTITION revector.ledger_g2_pkey;


--
-- Name: ledger_g3_hashtextextended_idx; Type: INDEX ATTACH; Schema: revector; Owner: -
--

ALTER INDEX revector.ledger_content ATTACH PARTITION revector.ledger_g3_hashtextextended_idx;


--
-- Name: ledger_g3_pkey; Type: INDEX ATTACH; Schema: revector; Owner: -
--

ALTER INDEX revector.ledger_pkey ATTACH PARTITION revector.ledger_g3_pkey;


--
-- Name: document a_version; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER a_version BEFORE INSERT OR UPDATE ON revector.document FOR EACH ROW EXECUTE FUNCTION revector.document_before();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER a_version;


--
-- Name: event append_only; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON revector.event FOR EACH ROW EXECUTE FUNCTION revector.refuse('history is append-only');


--
-- Name: gate_override append_only; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON revector.gate_override FOR EACH ROW EXECUTE FUNCTION revector.refuse('an override is history');


--
-- Name: event append_only_truncate; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON revector.event FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('history is append-only');


--
-- Name: document b_fan_out_insert; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER b_fan_out_insert AFTER INSERT ON revector.document REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION revector.document_fan_out();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER b_fan_out_insert;


--
-- Name: document b_fan_out_update; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER b_fan_out_update AFTER UPDATE ON revector.document REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION revector.document_fan_out();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER b_fan_out_update;


--
-- Name: document c_tombstones; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER c_tombstones BEFORE DELETE ON revector.document FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('set deleted = true, so that every index learns of it');

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER c_tombstones;


--
-- Name: document c_truncate; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER c_truncate BEFORE TRUNCATE ON revector.document FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('set deleted = true, so that every index learns of it');

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER c_truncate;


--
-- Name: event chain; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER chain BEFORE INSERT ON revector.event FOR EACH ROW EXECUTE FUNCTION revector.event_chain();


--
-- Name: document d_refused_insert; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER d_refused_insert AFTER INSERT ON revector.document REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER d_refused_insert;


--
-- Name: document d_refused_update; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER d_refused_update AFTER UPDATE ON revector.document REFERENCING OLD TABLE AS stale NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION revector.document_answers_refused();

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER d_refused_update;


--
-- Name: document ids_are_identity; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER ids_are_identity BEFORE UPDATE ON revector.document FOR EACH ROW WHEN (((old.doc_id IS DISTINCT FROM new.doc_id) OR (old.cid IS DISTINCT FROM new.cid))) EXECUTE FUNCTION revector.refuse('an id never changes; delete and put');

ALTER TABLE revector.document ENABLE ALWAYS TRIGGER ids_are_identity;


--
-- Name: generation immutable; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER immutable BEFORE UPDATE ON revector.generation FOR EACH ROW WHEN (((old.cid IS DISTINCT FROM new.cid) OR (old.revision IS DISTINCT FROM new.revision) OR (old.physical_name IS DISTINCT FROM new.physical_name) OR (old.spec IS DISTINCT FROM new.spec) OR (old.config_hash IS DISTINCT FROM new.config_hash) OR (old.chunker_fp IS DISTINCT FROM new.chunker_fp) OR (old.encoder_fp IS DISTINCT FROM new.encoder_fp) OR (old.probes IS DISTINCT FROM new.probes) OR (old.seeded AND (NOT new.seeded)) OR (old.dropped AND (NOT new.dropped)) OR (new.live AND (NOT old.live)))) EXECUTE FUNCTION revector.refuse('a generation is immutable once registered');


--
-- Name: api_key kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.api_key FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: canary kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.canary FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: collection kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.collection FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: gate_result kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.gate_result FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: generation kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.generation FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: lease kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.lease FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: schema_version kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.schema_version FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: spending kept; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept BEFORE DELETE ON revector.spending FOR EACH ROW EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: api_key kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.api_key FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: canary kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.canary FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: collection kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.collection FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: gate_override kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.gate_override FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: gate_result kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.gate_result FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: generation kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.generation FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: lease kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.lease FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: rejected kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.rejected FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: schema_version kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.schema_version FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: spending kept_whole; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON revector.spending FOR EACH STATEMENT EXECUTE FUNCTION revector.refuse('other records depend on these rows');


--
-- Name: generation measured_once; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER measured_once BEFORE UPDATE ON revector.generation FOR EACH ROW WHEN (((old.vectors_fp IS DISTINCT FROM new.vectors_fp) OR (old.fidelity IS DISTINCT FROM new.fidelity))) EXECUTE FUNCTION revector.refuse('a generation is immutable once registered');


--
-- Name: archived not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.archived FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: idx_docs_g2 not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.idx_docs_g2 FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: idx_docs_g3 not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.idx_docs_g3 FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: intent not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.intent FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: ledger not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.ledger FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: ledger_g2 not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.ledger_g2 FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: ledger_g3 not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.ledger_g3 FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: part not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.part FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: pending not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.pending FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: shadow_read not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.shadow_read FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: shard not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.shard FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: waiver not_by_hand; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON revector.waiver FOR EACH STATEMENT EXECUTE FUNCTION revector.not_by_hand();


--
-- Name: intent only_forward; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER only_forward BEFORE UPDATE ON revector.intent FOR EACH ROW WHEN ((((((((old.gen IS DISTINCT FROM new.gen) OR (old.attempt IS DISTINCT FROM new.attempt)) OR (old.doc_id IS DISTINCT FROM new.doc_id)) OR (old.version IS DISTINCT FROM new.version)) OR (old.content_hash IS DISTINCT FROM new.content_hash)) OR (old.n_chunks IS DISTINCT FROM new.n_chunks)) OR ((old.state = 'doomed'::text) AND (new.state <> 'doomed'::text)) OR ((old.state = 'published'::text) AND (new.state = 'open'::text)))) EXECUTE FUNCTION revector.refuse('an attempt is given up once and for all');


--
-- Name: ledger only_forward; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER only_forward BEFORE UPDATE ON revector.ledger FOR EACH ROW WHEN ((new.version < old.version)) EXECUTE FUNCTION revector.refuse('an older version never replaces a newer one');


--
-- Name: collection slots; Type: TRIGGER; Schema: revector; Owner: -
--

CREATE TRIGGER slots BEFORE UPDATE ON revector.collection FOR EACH ROW EXECUTE FUNCTION revector.slots_are_served();


--
-- Name: archived archived_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.archived
    ADD CONSTRAINT archived_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: archived archived_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.archived
    ADD CONSTRAINT archived_gen_fkey FOREIGN KEY (gen) REFERENCES revector.generation(gen);


--
-- Name: canary canary_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.canary
    ADD CONSTRAINT canary_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: canary canary_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.canary
    ADD CONSTRAINT canary_gen_fkey FOREIGN KEY (gen) REFERENCES revector.generation(gen);


--
-- Name: collection collection_cid_active_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.collection
    ADD CONSTRAINT collection_cid_active_gen_fkey FOREIGN KEY (cid, active_gen) REFERENCES revector.generation(cid, gen);


--
-- Name: collection collection_cid_building_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.collection
    ADD CONSTRAINT collection_cid_building_gen_fkey FOREIGN KEY (cid, building_gen) REFERENCES revector.generation(cid, gen);


--
-- Name: collection collection_cid_standby_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.collection
    ADD CONSTRAINT collection_cid_standby_gen_fkey FOREIGN KEY (cid, standby_gen) REFERENCES revector.generation(cid, gen);


--
-- Name: document document_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.document
    ADD CONSTRAINT document_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: event event_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.event
    ADD CONSTRAINT event_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: gate_override gate_override_result_id_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.gate_override
    ADD CONSTRAINT gate_override_result_id_fkey FOREIGN KEY (result_id) REFERENCES revector.gate_result(id);


--
-- Name: gate_result gate_result_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.gate_result
    ADD CONSTRAINT gate_result_gen_fkey FOREIGN KEY (gen) REFERENCES revector.generation(gen);


--
-- Name: generation generation_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.generation
    ADD CONSTRAINT generation_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: lease lease_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.lease
    ADD CONSTRAINT lease_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: load_sample load_sample_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.load_sample
    ADD CONSTRAINT load_sample_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: part part_gen_shard_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.part
    ADD CONSTRAINT part_gen_shard_fkey FOREIGN KEY (gen, shard) REFERENCES revector.shard(gen, shard);


--
-- Name: rejected rejected_cid_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.rejected
    ADD CONSTRAINT rejected_cid_fkey FOREIGN KEY (cid) REFERENCES revector.collection(cid);


--
-- Name: shadow_read shadow_read_against_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.shadow_read
    ADD CONSTRAINT shadow_read_against_fkey FOREIGN KEY (against) REFERENCES revector.generation(gen);


--
-- Name: shadow_read shadow_read_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.shadow_read
    ADD CONSTRAINT shadow_read_gen_fkey FOREIGN KEY (gen) REFERENCES revector.generation(gen);


--
-- Name: shard shard_gen_fkey; Type: FK CONSTRAINT; Schema: revector; Owner: -
--

ALTER TABLE ONLY revector.shard
    ADD CONSTRAINT shard_gen_fkey FOREIGN KEY (gen) REFERENCES revector.generation(gen);


--
-- PostgreSQL database dump complete
--


