-- Undoes recovery.sql. You may run it again, and next to a running service. The relays go on, and announce gaps instead
-- once they reconnect.
--
--   psql -v ON_ERROR_STOP=1 -f recovery_down.sql "$DATABASE_DIRECT_URL"

DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot);

SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.user_revisions_changed_xid_idx', nspname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = nullif(current_setting('pgherald.users'), '')::oid \gexec

DO $$
DECLARE
    users regclass := nullif(current_setting('pgherald.users'), '')::oid::regclass;
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            IF users IS NOT NULL THEN
                EXECUTE format('DROP TRIGGER IF EXISTS pgherald_stamp ON %s', users);
                EXECUTE format('DROP TRIGGER IF EXISTS pgherald_former ON %s', users);
                EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS changed_xid', users);
            END IF;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF attempt = 60 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.5);
        END;
    END LOOP;
END
$$;

DROP FUNCTION IF EXISTS pgherald.former_users_since(pg_snapshot), pgherald.note_former_user(), pgherald.note_run(),
    pgherald.stamp_changed_xid();
DROP TABLE IF EXISTS pgherald.former_user, pgherald.server_run, pgherald.relay_key;

-- notify.sql may still use the schema.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('pgherald')) THEN
        DROP SCHEMA IF EXISTS pgherald;
    END IF;
END
$$;
