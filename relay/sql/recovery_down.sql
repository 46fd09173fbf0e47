-- Undoes recovery.sql. May be run again, beside a running service. The relays go on, and announce gaps instead, once they reconnect.
--
--   psql -v ON_ERROR_STOP=1 -f recovery_down.sql "$DATABASE_DIRECT_URL"

DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot);
DROP INDEX CONCURRENTLY IF EXISTS user_revisions_changed_xid_idx;

DO $$
DECLARE
    users regclass := to_regclass('user_revisions');
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            IF users IS NOT NULL THEN
                EXECUTE format('DROP TRIGGER IF EXISTS pgherald_stamp ON %s', users);
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

DROP FUNCTION IF EXISTS pgherald.stamp_changed_xid();

-- notify.sql may still use the schema.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('pgherald')) THEN
        DROP SCHEMA IF EXISTS pgherald;
    END IF;
END
$$;
