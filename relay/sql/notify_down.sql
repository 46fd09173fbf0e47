-- Undoes notify.sql. May be run again.
--
--   psql -v ON_ERROR_STOP=1 -f notify_down.sql "$DATABASE_DIRECT_URL"

DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

DO $$
DECLARE
    users regclass := nullif(current_setting('pgherald.users'), '')::oid::regclass;
BEGIN
    SET LOCAL lock_timeout = '2s';
    IF users IS NOT NULL THEN
        EXECUTE format('DROP TRIGGER IF EXISTS pgherald_notify ON %s', users);
    END IF;
END
$$;

DROP FUNCTION IF EXISTS pgherald.notify_change();

-- recovery.sql may still use the schema.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('pgherald')) THEN
        DROP SCHEMA IF EXISTS pgherald;
    END IF;
END
$$;
