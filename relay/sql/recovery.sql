-- Lets pgherald recover changes that nobody heard, and announce those that nobody notified, for the data-sync tables:
--   records, user_revisions (user_id, revision)
-- Every change of a user's data increments that user's revision, so user_revisions alone tells who changed.
--
--   psql -v ON_ERROR_STOP=1 -f recovery.sql "$DATABASE_DIRECT_URL"
--   psql -v ON_ERROR_STOP=1 -v relay=ROLE -f recovery.sql ...      grants the relays' role what it needs, too
--
-- Run it as the owner of the table, with the search_path in which user_revisions is found. You may run it again at any
-- time, next to a running service, and it upgrades an older version of itself. It rewrites no table, asks for each lock
-- on the table for 2 seconds at a time and holds it for an instant, and builds the index while writers go on.
-- recovery_down.sql undoes it. Restart the relays, or let them reconnect, to have them find the functions.
--
-- A relay that connects as another role needs, which -v relay=ROLE grants:
--   SELECT on user_revisions        to find changes
--   SELECT on pgherald.relay_key    to believe the canaries of other relays
--
-- Rows that stood before the installation count as changed by it: recovery returns them for every older checkpoint.
-- A row that is deleted is not found. An application that deletes users keeps a row as a tombstone, and increments its
-- revision.
--
-- For any other schema, write a function of the same name and signature:
--   pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
-- and run this file with -v own=1: it then installs only what restarts, failovers and other relays need, and leaves
-- out what is about user_revisions. value is the pubkey on a change channel, the payload on a text channel. The function returns every row that was
-- changed by a transaction which is visible now and is not visible in the snapshot. It may return more.

-- Names are found in pg_catalog first from here on, whatever others have put into the search_path of whoever runs this.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('pgherald.searched', pg_catalog.current_setting('search_path'), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

DO $$
DECLARE
    schema_owner oid := (SELECT nspowner FROM pg_namespace WHERE nspname = 'pgherald');
    trusted oid[] := ARRAY(SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user
                           UNION SELECT datdba FROM pg_database WHERE datname = current_database()
                           UNION SELECT relowner FROM pg_class
                                 WHERE oid = nullif(current_setting('pgherald.users'), '')::oid);
BEGIN
    IF schema_owner <> ALL (trusted) THEN
        RAISE EXCEPTION 'the schema pgherald belongs to %, who is neither the owner of the table or the database nor a superuser',
                        pg_get_userbyid(schema_owner)
              USING HINT = 'Look at what is in it, and drop it or change its owner.';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS pgherald;
GRANT USAGE ON SCHEMA pgherald TO PUBLIC;

-- Runs of the server. A checkpoint names the run of the server that made it, and an LSN within that run. Each canary notes
-- how far this server's history has the run. So after a failover, a restart, or a disk that was set back, the relay asks
-- here whether the server's history contains the checkpoint. One row a start of the server.
CREATE TABLE IF NOT EXISTS pgherald.server_run (
    started bigint PRIMARY KEY, -- pg_postmaster_start_time() in microseconds
    upto pg_lsn NOT NULL
) WITH (fillfactor = 10); -- an update stays on its page
GRANT SELECT ON pgherald.server_run TO PUBLIC;

-- Whoever may connect may call it: it notes true facts only. Nobody waits for a caller that keeps its transaction open:
-- who does not get the lock at once leaves the note to the next canary.
CREATE OR REPLACE FUNCTION pgherald.note_run() RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run bigint := extract(epoch FROM pg_postmaster_start_time()) * 1000000;
    lsn pg_lsn := pg_current_wal_insert_lsn();
BEGIN
    IF pg_try_advisory_xact_lock(8099557239769099364) THEN -- 'pgherald'
        UPDATE pgherald.server_run SET upto = lsn WHERE started = run AND upto < lsn;
        IF NOT FOUND THEN
            INSERT INTO pgherald.server_run VALUES (run, lsn) ON CONFLICT DO NOTHING;
        END IF;
    END IF;
    RETURN lsn;
END
$$;

-- With it relays recognise each other's canaries. Whoever may read it may speak for a relay.
CREATE TABLE IF NOT EXISTS pgherald.relay_key (key bytea NOT NULL);
INSERT INTO pgherald.relay_key
    SELECT sha256(convert_to(concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid()), 'UTF8'))
    WHERE NOT EXISTS (SELECT FROM pgherald.relay_key);

\if :{?own}
    \if :{?relay}
        GRANT SELECT ON pgherald.relay_key TO :"relay";
    \endif
    \quit
\endif

DO $$
BEGIN
    IF current_setting('pgherald.users') = '' THEN
        RAISE EXCEPTION 'there is no table user_revisions in the search_path (%)', current_setting('pgherald.searched');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgherald.stamp_changed_xid() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_catalog.pg_current_xact_id();
    RETURN NEW;
END
$$;

-- Ids that a user no longer has. Who listens to one hears that it changed.
CREATE TABLE IF NOT EXISTS pgherald.former_user (user_id text PRIMARY KEY, changed_xid xid8 NOT NULL);
CREATE INDEX IF NOT EXISTS former_user_changed_xid_idx ON pgherald.former_user (changed_xid);

CREATE OR REPLACE FUNCTION pgherald.note_former_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgherald.former_user VALUES (OLD.user_id::text, pg_current_xact_id())
        ON CONFLICT (user_id) DO UPDATE SET changed_xid = EXCLUDED.changed_xid;
    RETURN NULL;
END
$$;

-- An id is told only to who may read the ids that users have now.
DO $$
BEGIN
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION pgherald.former_users_since(since pg_snapshot) RETURNS SETOF text
        LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            RETURN QUERY SELECT user_id FROM pgherald.former_user
                WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since)
                      AND has_table_privilege(session_user, %s, 'SELECT');
        END
        $body$
    $f$, current_setting('pgherald.users'));
END
$$;

-- To queue for a lock behind a long transaction would make all who come later queue too: so give up soon, and try again.
-- The triggers fire ALWAYS: what logical replication applies is a change too.
DO $$
DECLARE
    users regclass := current_setting('pgherald.users')::oid::regclass;
    unstamped text := 'none'; -- which rows may lack a true stamp: none, those without one, all
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = users AND attname = 'changed_xid' AND NOT attisdropped) THEN
                EXECUTE format('ALTER TABLE %s ADD COLUMN changed_xid xid8', users);
                unstamped := 'null';
            END IF;
            IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp') THEN
                EXECUTE format('CREATE TRIGGER pgherald_stamp BEFORE INSERT OR UPDATE ON %s'
                               ' FOR EACH ROW EXECUTE FUNCTION pgherald.stamp_changed_xid()', users);
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_stamp', users);
                unstamped := CASE unstamped WHEN 'none' THEN 'all' ELSE unstamped END;
            ELSIF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp' AND tgenabled = 'A') THEN
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_stamp', users);
                unstamped := 'all';
            END IF;
            IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_former') THEN
                EXECUTE format('CREATE TRIGGER pgherald_former AFTER UPDATE ON %s FOR EACH ROW'
                               ' WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id)'
                               ' EXECUTE FUNCTION pgherald.note_former_user()', users);
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_former', users);
            END IF;
            PERFORM set_config('pgherald.unstamped', unstamped, false);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF attempt = 60 THEN
                RAISE;
            END IF;
            unstamped := 'none';
            PERFORM pg_sleep(0.5);
        END;
    END LOOP;
END
$$;

-- CREATE INDEX names the table as it was found: an index is in the schema of its table.
SELECT format('%I.%I', nspname, relname) AS users, format('%I.%I', nspname, 'user_revisions_changed_xid_idx') AS users_index
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = current_setting('pgherald.users')::oid \gset

-- What a build that was interrupted left over would otherwise pass for the index.
SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:'users_index') AND NOT indisvalid) AS broken \gset
\if :broken
    DROP INDEX :users_index;
\endif
CREATE INDEX CONCURRENTLY IF NOT EXISTS user_revisions_changed_xid_idx ON :users (changed_xid);

-- Plain SQL that the planner can see through, so rows are sent as the index gives them. It is parsed in the search_path of
-- whoever calls it: each name is qualified. The second part is for what has no true stamp: it counts as changed by this
-- transaction. Where this transaction is visible in the snapshot, the planner drops that part. A rerun that mends nothing
-- leaves the function as it is.
DO $$
DECLARE
    version text := 'pgherald 2: what was changed by transactions that this snapshot does not see';
    users text := (SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                   WHERE pg_class.oid = current_setting('pgherald.users')::oid);
    installed oid := to_regprocedure('pgherald.changes_since(pg_snapshot)');
    unstamped text := current_setting('pgherald.unstamped');
BEGIN
    IF unstamped = 'none' AND obj_description(installed, 'pg_proc') IS NOT DISTINCT FROM version THEN
        RETURN;
    END IF;
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION pgherald.changes_since(since pg_snapshot)
        RETURNS TABLE (channel text, value text)
        LANGUAGE sql STABLE AS $body$
            SELECT 'data_sync_changes'::pg_catalog.text, user_id::pg_catalog.text
            FROM %1$s
            WHERE changed_xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin(since)
              AND NOT pg_catalog.pg_visible_in_snapshot(changed_xid, since)
            UNION ALL
            SELECT 'data_sync_changes'::pg_catalog.text, user_id::pg_catalog.text
            FROM %1$s
            WHERE %2$s AND NOT pg_catalog.pg_visible_in_snapshot('%3$s'::pg_catalog.xid8, since)
            UNION ALL
            SELECT 'data_sync_changes'::pg_catalog.text, pgherald.former_users_since(since)
        $body$
    $f$, users, CASE unstamped WHEN 'all' THEN 'true' ELSE 'changed_xid IS NULL' END, pg_current_xact_id());
    EXECUTE format('COMMENT ON FUNCTION pgherald.changes_since(pg_snapshot) IS %L', version);
END
$$;

\if :{?relay}
    GRANT SELECT ON :users, pgherald.relay_key TO :"relay";
\endif
