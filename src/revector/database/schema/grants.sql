-- What an application's role needs to do all of revector's everyday work on tables that it does not own. It cannot change
-- or delete the history, switch triggers off, or alter a table. Run as the tables' owner, as often as you like.
GRANT USAGE, CREATE ON SCHEMA revector TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA revector TO {role};
GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA revector TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA revector TO {role};
REVOKE UPDATE, DELETE ON revector.event, revector.gate_override FROM {role};
REVOKE INSERT, UPDATE, DELETE ON revector.schema_version FROM {role};
-- Ledgers of generations to come, and tables of later schema versions.
ALTER DEFAULT PRIVILEGES IN SCHEMA revector GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA revector GRANT SELECT, USAGE ON SEQUENCES TO {role};
-- Indexes that were made before: the role that makes an index also drops it.
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT physical_name FROM revector.generation WHERE NOT dropped LOOP
    EXECUTE format('ALTER TABLE revector.%I OWNER TO %s', name, {role_text});
  END LOOP;
END $$;
