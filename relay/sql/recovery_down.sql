-- Undoes recovery.sql. You may run it again, and next to a running service. The relays go on;
-- once they reconnect, they announce gaps instead of recovering.
--
--   psql -v ON_ERROR_STOP=1 -f recovery_down.sql "$DATABASE_DIRECT_URL"
--   psql -v ON_ERROR_STOP=1 -v own=1 -f recovery_down.sql ...      keeps your own pgherald.changes_since()

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

\if :{?own}
\else
    -- pgherald.sql's tables may still be tracked.
    SELECT to_regclass('pgherald.tracked_table') IS NOT NULL AS tracks \gset
    BEGIN;
    DROP FUNCTION IF EXISTS pgherald.changes_of_users(pg_snapshot), pgherald.check_users(), pgherald.sees_all_users();
    \if :tracks
        SELECT pgherald.compose_changes_since() \g /dev/null
    \else
        DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot), pgherald.problem();
    \endif
    COMMIT;

    SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.user_revisions_changed_xid_idx', nspname)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = nullif(current_setting('pgherald.users'), '')::oid \gexec

    -- Gives up after 2 seconds and tries again, as recovery.sql does.
    DO $$
    DECLARE
        users regclass := nullif(current_setting('pgherald.users'), '')::oid::regclass;
    BEGIN
        SET LOCAL lock_timeout = '2s';
        FOR attempt IN 1..60 LOOP
            BEGIN
                IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp') THEN
                    EXECUTE format('DROP TRIGGER pgherald_stamp ON %s', users);
                END IF;
                IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_former') THEN
                    EXECUTE format('DROP TRIGGER pgherald_former ON %s', users);
                END IF;
                IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = users AND attname = 'changed_xid' AND NOT attisdropped) THEN
                    EXECUTE format('ALTER TABLE %s DROP COLUMN changed_xid', users);
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
\endif

-- Canaries write server_run, and changes_since() reads former_user: do not make them wait for
-- long either.
DO $$
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            DROP FUNCTION IF EXISTS pgherald.former_users_since(pg_snapshot), pgherald.note_former_user(),
                pgherald.stamp_changed_xid();
            DROP TABLE IF EXISTS pgherald.former_user;
            IF to_regclass('pgherald.tracked_table') IS NULL THEN
                DROP FUNCTION IF EXISTS pgherald.note_run(), pgherald.compose_changes_since();
                DROP TABLE IF EXISTS pgherald.server_run, pgherald.relay_key;
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

-- notify.sql, or your own objects, may still use the schema.
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
