-- Undoes notify.sql. You may run it again, and next to a running service.
--
--   psql -v ON_ERROR_STOP=1 -f notify_down.sql "$DATABASE_DIRECT_URL"

DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('pgherald.searched', pg_catalog.current_setting('search_path'), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

DO $$
BEGIN
    PERFORM set_config(name, value, false)
    FROM pg_settings JOIN (VALUES ('statement_timeout', '0'), ('transaction_timeout', '0'), ('lock_timeout', '0'),
                                  ('default_transaction_isolation', 'read committed'),
                                  ('client_min_messages', 'warning')) AS v (name, value) USING (name);
END
$$;

-- Gives up after 2 seconds and tries again, as notify.sql does.
DO $$
DECLARE
    users regclass := nullif(current_setting('pgherald.users'), '')::oid::regclass;
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_notify') THEN
                EXECUTE format('DROP TRIGGER pgherald_notify ON %s', users);
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

DROP FUNCTION IF EXISTS pgherald.notify_change();

-- recovery.sql, or your own objects, may still use the schema.
DO $$
BEGIN
    DROP SCHEMA IF EXISTS pgherald;
EXCEPTION WHEN dependent_objects_still_exist THEN
    NULL;
END
$$;

DO $$
BEGIN
    PERFORM set_config(name, reset_val, false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'lock_timeout', 'default_transaction_isolation',
                   'client_min_messages');
    PERFORM set_config('search_path', current_setting('pgherald.searched'), false);
END
$$;
