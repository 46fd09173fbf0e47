-- Lets pgherald recover changes that nobody heard, and announce those that nobody notified, for the data-sync tables:
--   records, user_revisions (user_id, revision)
-- Every change of a user's data counts that user's revision up, so user_revisions alone tells who changed.
--
--   psql -v ON_ERROR_STOP=1 -f recovery.sql "$DATABASE_DIRECT_URL"
--
-- Run it as the owner of the table, with the search_path in which user_revisions is found. It may be run again at any time, beside a
-- running service: no table is rewritten, each lock on the table is asked for 2 seconds at a time and held for an instant,
-- and the index is built beside the writers. recovery_down.sql undoes it. The relay's role needs SELECT on
-- user_revisions. Restart the relays, or let them reconnect, to have them find the function.
--
-- A row that is deleted is not found: an application that deletes users keeps a row as a tombstone, and counts its
-- revision up.
--
-- For any other schema, write a function of the same name and signature:
--   pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
-- value is the pubkey on a change channel, the payload on a text channel. It must return whatever was changed by a
-- transaction that is visible now and not visible in the snapshot, and may return more.

CREATE SCHEMA IF NOT EXISTS pgherald;
GRANT USAGE ON SCHEMA pgherald TO PUBLIC;

CREATE OR REPLACE FUNCTION pgherald.stamp_changed_xid() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END
$$;

-- To queue for a lock behind a long transaction would make all who come later queue too: so give up soon, and try again.
DO $$
DECLARE
    users regclass := to_regclass('user_revisions');
BEGIN
    IF users IS NULL THEN
        RAISE EXCEPTION 'there is no table user_revisions in the search_path (%)', current_setting('search_path');
    END IF;
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS changed_xid xid8', users);
            IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp') THEN
                EXECUTE format('CREATE TRIGGER pgherald_stamp BEFORE INSERT OR UPDATE ON %s'
                               ' FOR EACH ROW EXECUTE FUNCTION pgherald.stamp_changed_xid()', users);
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

-- What a build that was interrupted left behind would otherwise pass for the index.
DO $$
DECLARE
    broken regclass;
BEGIN
    SELECT indexrelid::regclass INTO broken FROM pg_index
    WHERE indexrelid = to_regclass('user_revisions_changed_xid_idx') AND NOT indisvalid;
    IF broken IS NOT NULL THEN
        EXECUTE format('DROP INDEX %s', broken);
    END IF;
END
$$;

CREATE INDEX CONCURRENTLY IF NOT EXISTS user_revisions_changed_xid_idx ON user_revisions (changed_xid);

-- Plain SQL that the planner can see through, so rows are sent as the index gives them. The table is named with its schema, since
-- the relay's search_path may be another.
DO $$
BEGIN
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION pgherald.changes_since(since pg_snapshot)
        RETURNS TABLE (channel text, value text)
        LANGUAGE sql STABLE AS $body$
            SELECT 'data_sync_changes'::text, user_id::text
            FROM %s
            WHERE changed_xid >= pg_snapshot_xmin(since)
              AND NOT pg_visible_in_snapshot(changed_xid, since)
        $body$
    $f$, (SELECT format('%I.%I', nspname, relname)
          FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
          WHERE pg_class.oid = to_regclass('user_revisions')));
END
$$;

COMMENT ON FUNCTION pgherald.changes_since(pg_snapshot) IS
    'pgherald: what was changed by transactions that this snapshot does not see';
