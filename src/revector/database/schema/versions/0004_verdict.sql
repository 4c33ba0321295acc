-- A gate's verdict has three values; a named person may override one that is no pass; without either, no swap.

ALTER TABLE revector.gate_result ADD COLUMN verdict text;
UPDATE revector.gate_result SET verdict = CASE WHEN passed THEN 'pass' ELSE 'fail' END;
ALTER TABLE revector.gate_result ALTER COLUMN verdict SET NOT NULL,
  ADD CONSTRAINT a_verdict CHECK (verdict IN ('pass', 'fail', 'inconclusive')),
  ADD CONSTRAINT only_a_pass_passed CHECK (passed = (verdict = 'pass'));

CREATE TABLE revector.gate_override (       -- bound to one result: measuring anew voids it
  result_id bigint PRIMARY KEY REFERENCES revector.gate_result,
  who text NOT NULL CHECK (who <> ''), why text NOT NULL CHECK (why <> ''),
  at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON revector.gate_override FOR EACH ROW
  EXECUTE FUNCTION revector.refuse('an override is history');

CREATE OR REPLACE FUNCTION revector.slots_are_served() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TABLE revector.canary (              -- what is served, measured day by day on the same queries
  cid int NOT NULL REFERENCES revector.collection, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  gen int NOT NULL REFERENCES revector.generation,
  labels text NOT NULL, labels_fp text NOT NULL, k int NOT NULL, queries int NOT NULL CHECK (queries > 0),
  recall double precision NOT NULL CHECK (recall BETWEEN 0 AND 1),
  baseline double precision NOT NULL CHECK (baseline BETWEEN 0 AND 1),
  encoder_fault text, alerts jsonb NOT NULL DEFAULT '[]', detail jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (cid, at));
CREATE INDEX canary_gen ON revector.canary (gen, at);

CREATE TABLE revector.shadow_read (         -- shadow reads, summed: live queries asked of the generation being built, too
  gen int NOT NULL REFERENCES revector.generation,      -- that was being built
  against int NOT NULL REFERENCES revector.generation,  -- that answered the user
  k int NOT NULL CHECK (k BETWEEN 1 AND 100),
  hour timestamptz NOT NULL,                            -- of saving, by this database's clock
  compared bigint NOT NULL CHECK (compared >= 0), shed bigint NOT NULL, skipped bigint NOT NULL, gone bigint NOT NULL,
  errors bigint NOT NULL,
  overlap_sum double precision NOT NULL, overlap_squares double precision NOT NULL,
  rbo_sum double precision NOT NULL, rbo_squares double precision NOT NULL,
  tenths bigint[] NOT NULL CHECK (cardinality(tenths) = 11),
  old_ms bigint[] NOT NULL CHECK (cardinality(old_ms) = 88), new_ms bigint[] NOT NULL CHECK (cardinality(new_ms) = 88),
  PRIMARY KEY (gen, against, k, hour));
