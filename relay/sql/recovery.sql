-- Lets pgherald recover changes that nobody heard, and announce those that nobody notified, for the
-- data-sync tables:
--   records, user_revisions (user_id, revision)
-- Every change of a user's data increments that user's revision, so user_revisions alone tells who changed.
--
--   psql -v ON_ERROR_STOP=1 -f recovery.sql "$DATABASE_DIRECT_URL"
--   psql -v ON_ERROR_STOP=1 -v relay=ROLE -f recovery.sql ...      also grants the relays' role what it needs
--
-- Run it as the owner of the table, with the search_path in which user_revisions is found. You may run it
-- again at any time, next to a running service, and it upgrades an older version of itself. It rewrites no
-- table, asks for each lock on the table for 2 seconds at a time and holds it for an instant, and builds the
-- index while writers go on. recovery_down.sql undoes it. Restart the relays, or let them reconnect, to have
-- them find the functions.
--
-- A relay that connects as another role than the one that runs this needs, which -v relay=ROLE grants:
--   SELECT on user_revisions        to find changes
--   SELECT on pgherald.relay_key    to believe the canaries of other relays
--
-- Rows that stood before the installation count as changed by it: recovery returns them for every older
-- checkpoint. After an upgrade from a version whose trigger did not fire everywhere, all rows do.
-- A row that is deleted is not found. An application that deletes users keeps a row as a tombstone, and
-- increments its revision.
-- Before you change the type of user_id, run recovery_down.sql; afterwards run this again. After you restored
-- the database from a dump, run this again too.
--
-- For any other schema, write a function of the same name and signature:
--   pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
-- and run this file with -v own=1: it then installs only what restarts, failovers and other relays need, and
-- leaves out what is about user_revisions. value is the pubkey on a change channel, the payload on a text
-- channel. The function returns every row that was changed by a transaction which is visible now and is not
-- visible in the snapshot. It may return more. A superuser, the owner of the database or the relays' role
-- must own it and the schema, or else a role that owns every table which the relays' role may read.

-- Whatever others have put into the search_path of the role that runs this, from here on pg_catalog alone is
-- searched.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('pgherald.searched', pg_catalog.current_setting('search_path'), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

-- The settings of a role are meant for other statements. The last DO gives them back.
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
    DO $$
    BEGIN
        IF current_setting('pgherald.users') = '' THEN
            RAISE EXCEPTION 'there is no table user_revisions in the search_path (%)',
                            current_setting('pgherald.searched');
        END IF;
    END
    $$;
\endif

CREATE SCHEMA IF NOT EXISTS pgherald;

-- What a stranger owns there, the stranger can replace later, or read.
DO $$
DECLARE
    trusted oid[] := ARRAY(SELECT oid FROM pg_roles WHERE rolname = current_user
                           UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
                           UNION ALL SELECT relowner FROM pg_class
                                     WHERE oid = nullif(current_setting('pgherald.users'), '')::oid);
    stranger record;
BEGIN
    SELECT * INTO stranger
    FROM (SELECT 'schema', nspname, nspowner FROM pg_namespace WHERE nspname = 'pgherald'
          UNION ALL SELECT 'function', proname, proowner FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace
          UNION ALL SELECT 'relation', relname, relowner FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace
         ) AS o (kind, name, owner)
    WHERE NOT EXISTS (SELECT FROM unnest(trusted) AS t (role) WHERE pg_has_role(o.owner, t.role, 'MEMBER'))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the % % belongs to %, who is neither a superuser nor the owner of the database or the table',
                        stranger.kind, CASE stranger.kind WHEN 'schema' THEN '' ELSE 'pgherald.' END || stranger.name,
                        pg_get_userbyid(stranger.owner)
              USING HINT = 'Look at what is in the schema pgherald, and drop it. If you trust its owner, run this as that role.';
    END IF;
END
$$;

GRANT USAGE ON SCHEMA pgherald TO PUBLIC;

-- Runs of the server. A checkpoint names the run of the server that made it, and an LSN within that run. Each
-- canary notes how far this server's history has the run. So after a failover, a restart, or a disk that was
-- set back, the relay asks here whether the server's history contains the checkpoint. The backends of a run
-- have a row each, so that none ever waits for another, or fails because of it.
CREATE TABLE IF NOT EXISTS pgherald.server_run (
    started bigint,  -- pg_postmaster_start_time() in microseconds
    backend integer, -- its number among those that run at once
    upto pg_lsn NOT NULL,
    PRIMARY KEY (started, backend)
) WITH (fillfactor = 10); -- an update stays on its page

\if :{?own}
\else
    -- Ids that a user no longer has. Who listens to one hears that it changed. An id may be longer than what
    -- a B-tree takes.
    CREATE TABLE IF NOT EXISTS pgherald.former_user (user_id text NOT NULL, changed_xid xid8 NOT NULL);
    CREATE INDEX IF NOT EXISTS former_user_id_idx ON pgherald.former_user USING hash (user_id);
    CREATE INDEX IF NOT EXISTS former_user_changed_xid_idx ON pgherald.former_user (changed_xid);
\endif

-- With the key relays recognise each other's canaries. A role that can read it can speak for a relay. Nobody but
-- the owner may write any of the tables, whatever the owner's default privileges grant on a new one.
DO $$
DECLARE
    closed name[] := ARRAY['server_run', 'former_user'];
    granted record;
BEGIN
    IF to_regclass('pgherald.relay_key') IS NULL THEN
        CREATE TABLE pgherald.relay_key (
            key bytea NOT NULL,
            only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
        );
        INSERT INTO pgherald.relay_key (key)
            VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));
        closed := closed || 'relay_key'::name;
    END IF;
    FOR granted IN
        SELECT DISTINCT c.oid::regclass AS relation,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'pgherald'::regnamespace AND c.relname = ANY (closed) AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', granted.relation, granted.grantee);
    END LOOP;
    GRANT SELECT ON pgherald.server_run TO PUBLIC;
END
$$;

-- Every role may call it: it notes true facts only. It must read no row, or serializable callers would fail, and
-- assign no id of a subtransaction, which the relay would take for activity and never be idle. A transaction
-- that has notified cannot be prepared: so it ends with its backend, and holds no row of the next one.
CREATE OR REPLACE FUNCTION pgherald.note_run() RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run bigint := extract(epoch FROM pg_postmaster_start_time()) * 1000000;
    self integer := (SELECT split_part(virtualtransaction, '/', 1) FROM pg_locks WHERE pid = pg_backend_pid() LIMIT 1);
    lsn pg_lsn := pg_current_wal_insert_lsn();
BEGIN
    NOTIFY pgherald_run;
    INSERT INTO pgherald.server_run AS r VALUES (run, self, lsn)
        ON CONFLICT (started, backend) DO UPDATE SET upto = greatest(r.upto, EXCLUDED.upto);
    RETURN lsn;
END
$$;
GRANT EXECUTE ON FUNCTION pgherald.note_run() TO PUBLIC;

\if :{?own}
\else
    -- It has no search_path of its own, which would cost more than all else that it does: its one name is
    -- qualified.
    CREATE OR REPLACE FUNCTION pgherald.stamp_changed_xid() RETURNS trigger
    LANGUAGE plpgsql AS $$
    BEGIN
        NEW.changed_xid := pg_catalog.pg_current_xact_id();
        RETURN NEW;
    END
    $$;

    CREATE OR REPLACE FUNCTION pgherald.note_former_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        UPDATE pgherald.former_user SET changed_xid = pg_current_xact_id() WHERE user_id = OLD.user_id::text;
        IF NOT FOUND AND OLD.user_id IS NOT NULL THEN
            INSERT INTO pgherald.former_user VALUES (OLD.user_id::text, pg_current_xact_id());
        END IF;
        RETURN NULL;
    END
    $$;

    -- An id is told only to a caller that may read the ids that users have now. current_user is the owner
    -- of this function while it runs, so the caller is what SET ROLE says, or else whoever logged in. The
    -- table is named, since a dump keeps no oid.
    DO $$
    BEGIN
        EXECUTE format($f$
            CREATE OR REPLACE FUNCTION pgherald.former_users_since(since pg_snapshot) RETURNS SETOF text
            LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $body$
            DECLARE
                caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
            BEGIN
                IF has_column_privilege(caller, %L, 'user_id', 'SELECT') THEN
                    RETURN QUERY SELECT user_id FROM pgherald.former_user
                        WHERE changed_xid >= pg_snapshot_xmin(since)
                          AND changed_xid < pg_snapshot_xmax(pg_current_snapshot())
                          AND NOT pg_visible_in_snapshot(changed_xid, since);
                END IF;
            END
            $body$
        $f$, current_setting('pgherald.users')::oid::regclass);
    END
    $$;
    GRANT EXECUTE ON FUNCTION pgherald.former_users_since(pg_snapshot) TO PUBLIC;
\endif

-- A function that runs as its owner belongs to the owner of the table that it writes: a trigger which that
-- role puts on its table then runs with no other role's rights.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure AS signature, quote_ident(pg_get_userbyid(c.relowner)) AS owner
        FROM (VALUES ('note_run', 'server_run'), ('note_former_user', 'former_user'), ('former_users_since', 'former_user'))
             AS v (function, relation)
             JOIN pg_proc AS p ON p.proname = v.function AND p.pronamespace = 'pgherald'::regnamespace
             JOIN pg_class AS c ON c.relname = v.relation AND c.relnamespace = 'pgherald'::regnamespace
        WHERE p.proowner <> c.relowner
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', f.signature, f.owner);
    END LOOP;
END
$$;

\if :{?own}
\else
    -- To queue for a lock behind a long transaction would make all who come later queue too: so give up
    -- soon, and try again. A function that was written for a column which is gone returns what is wrong.
    DO $$
    DECLARE
        users regclass := current_setting('pgherald.users')::oid::regclass;
    BEGIN
        SET LOCAL lock_timeout = '2s';
        FOR attempt IN 1..60 LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = users AND attname = 'changed_xid' AND NOT attisdropped) THEN
                    EXECUTE format('ALTER TABLE %s ADD COLUMN changed_xid xid8', users);
                    DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot);
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

    -- CREATE INDEX names the table as it was found: an index is in the schema of its table.
    SELECT format('%I.%I', nspname, relname) AS users, format('%I.%I', nspname, 'user_revisions_changed_xid_idx') AS users_index
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = current_setting('pgherald.users')::oid \gset

    -- What a build that was interrupted left over would otherwise pass for the index.
    SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:'users_index') AND NOT indisvalid) AS broken \gset
    \if :broken
        DROP INDEX CONCURRENTLY :users_index;
    \endif
    CREATE INDEX CONCURRENTLY IF NOT EXISTS user_revisions_changed_xid_idx ON :users (changed_xid);

    -- The triggers fire ALWAYS: what logical replication applies is a change too. They and the function come
    -- in one transaction. Where a trigger had to be mended, rows may lack a true stamp. So each row counts as
    -- changed by this transaction, which has waited for all that wrote without the triggers. A run that
    -- mends nothing keeps the transaction that the function has, unless that is one of another cluster.
    --
    -- The function is plain SQL that the planner can see through, so rows are sent as the index gives them. It
    -- is parsed in the search_path of its caller, so each name is qualified. A stamp that is not below the
    -- present comes from another cluster, by way of a dump. Where the transaction of the installation is
    -- visible in the snapshot, the planner drops the second part.
    DO $$
    DECLARE
        users regclass := current_setting('pgherald.users')::oid::regclass;
        mended boolean;
        since text; -- the transaction as of which all rows count as changed
    BEGIN
        SET LOCAL lock_timeout = '2s';
        FOR attempt IN 1..60 LOOP
            BEGIN
                mended := false;
                IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp') THEN
                    EXECUTE format('CREATE TRIGGER pgherald_stamp BEFORE INSERT OR UPDATE ON %s'
                                   ' FOR EACH ROW EXECUTE FUNCTION pgherald.stamp_changed_xid()', users);
                END IF;
                IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_stamp' AND tgenabled = 'A') THEN
                    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_stamp', users);
                    mended := true;
                END IF;
                IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_former') THEN
                    EXECUTE format('CREATE TRIGGER pgherald_former AFTER UPDATE ON %s FOR EACH ROW'
                                   ' WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id)'
                                   ' EXECUTE FUNCTION pgherald.note_former_user()', users);
                END IF;
                IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_former' AND tgenabled = 'A') THEN
                    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_former', users);
                END IF;
                since := substring(obj_description(to_regprocedure('pgherald.changes_since(pg_snapshot)'), 'pg_proc')
                                   FROM '^pgherald 2: .* ([0-9]+)$');
                IF mended OR since IS NULL OR since::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) THEN
                    since := pg_current_xact_id()::text;
                END IF;
                EXECUTE format($f$
                    CREATE OR REPLACE FUNCTION pgherald.changes_since(since pg_snapshot)
                    RETURNS TABLE (channel text, value text)
                    LANGUAGE sql STABLE AS $body$
                        SELECT 'data_sync_changes'::pg_catalog.text, user_id::pg_catalog.text
                        FROM %1$s
                        WHERE changed_xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin(since)
                          AND changed_xid OPERATOR(pg_catalog.<)
                              pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                          AND NOT pg_catalog.pg_visible_in_snapshot(changed_xid, since)
                        UNION ALL
                        SELECT 'data_sync_changes'::pg_catalog.text, user_id::pg_catalog.text
                        FROM %1$s
                        WHERE NOT pg_catalog.pg_visible_in_snapshot('%2$s'::pg_catalog.xid8, since)
                          AND '%2$s'::pg_catalog.xid8 OPERATOR(pg_catalog.<)
                              pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                        UNION ALL
                        SELECT 'data_sync_changes'::pg_catalog.text, pgherald.former_users_since(since)
                    $body$
                $f$, users, since);
                EXECUTE format('COMMENT ON FUNCTION pgherald.changes_since(pg_snapshot) IS %L',
                               'pgherald 2: what was changed by transactions that the snapshot does not see; all rows by ' || since);
                GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO PUBLIC;
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

\if :{?relay}
    GRANT SELECT ON pgherald.relay_key TO :"relay";
    \if :{?own}
    \else
        GRANT SELECT ON :users TO :"relay";
    \endif
\endif

DO $$
BEGIN
    PERFORM set_config(name, reset_val, false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'lock_timeout', 'default_transaction_isolation',
                   'client_min_messages');
    PERFORM set_config('search_path', current_setting('pgherald.searched'), false);
END
$$;
