-- Undoes pgherald.sql. Tables are tracked no longer, and messages and changes that were noted are
-- dropped. You may run it again, and next to a running service. What recovery.sql installed
-- stays; so does an operator's own changes_since().
--
--   psql -v ON_ERROR_STOP=1 -f pgherald_down.sql "$DATABASE_DIRECT_URL"
--
-- It needs recovery_down.sql next to it.

\set ON_ERROR_STOP on
SELECT pg_catalog.to_regprocedure('pgherald.changes_of_users(pg_catalog.pg_snapshot)') IS NOT NULL
       OR pg_catalog.to_regprocedure('pgherald.changes_of_own(pg_catalog.pg_snapshot)') IS NOT NULL AS others,
       pg_catalog.to_regclass('pgherald.tracked_table') IS NOT NULL AS tracks \gset

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
\if :tracks
    SELECT pgherald.untrack(tbl) FROM pgherald.tracked_table \g /dev/null
    -- A dump may have brought triggers without the rows of tracked_table.
    SELECT pgherald.clear_dropped() \g /dev/null
    COMMIT;
    -- From here on no writer waits. A relay may hold locks on the tables, in any order.
    BEGIN;
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL client_min_messages = warning;
    SET LOCAL lock_timeout = '500ms';
    DO $$
    BEGIN
        FOR attempt IN 1..150 LOOP
            BEGIN
                DROP VIEW pgherald.tracked;
                DROP FUNCTION pgherald.changes_of_tracked(pg_snapshot), pgherald.asked_channels(), pgherald.tracking(), pgherald.fold(),
                    pgherald.is_misplaced(), pgherald.number_of(xid8), pgherald.is_of_future(xid8),
                    pgherald.retain(interval, interval), pgherald.send(text, text, boolean),
                    pgherald.untrack(regclass, text, text), pgherald.track(regclass, text, text, boolean), pgherald.clear_dropped(),
                    pgherald.drop_functions(integer),
                    pgherald.check_channel(text), pgherald.make_triggers(integer), pgherald.present_keys(integer, regclass),
                    pgherald.problem_of(pgherald.tracked_table), pgherald.idle_triggers_of(pgherald.tracked_table),
                    pgherald.triggers_of(pgherald.tracked_table), pgherald.key_sql(pgherald.tracked_table, text),
                    pgherald.key_column(pgherald.tracked_table), pgherald.is_of_family(pgherald.tracked_table),
                    pgherald.execute_patiently(text[]), pgherald.change_payload(text),
                    pgherald.check_caller();
                DROP TABLE pgherald.tracked_table, pgherald.journal, pgherald.folded, pgherald.message, pgherald.moment, pgherald.retention;
                EXIT;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                IF attempt = 150 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.3);
            END;
        END LOOP;
    END
    $$;
    DO $$
    BEGIN
        IF to_regprocedure('pgherald.changes_of_own(pg_snapshot)') IS NOT NULL
           AND to_regprocedure('pgherald.changes_of_users(pg_snapshot)') IS NULL THEN
            DROP FUNCTION pgherald.changes_since(pg_snapshot), pgherald.problem();
            ALTER FUNCTION pgherald.changes_of_own(pg_snapshot) RENAME TO changes_since;
        ELSE
            PERFORM pgherald.compose_changes_since();
        END IF;
    END
    $$;
\endif
COMMIT;

\if :others
\else
    \set own 1
    \ir recovery_down.sql
    \unset own
\endif
