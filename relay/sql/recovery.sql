-- Installs what pgherald needs to recover changes that relays missed, and to announce changes
-- that nobody notified, for the data-sync tables:
--   records, user_revisions (user_id, revision)
-- Every change of a user's data increments that user's revision, so user_revisions alone tells
-- which users changed.
--
--   psql -v ON_ERROR_STOP=1 -f recovery.sql "$DATABASE_DIRECT_URL"
--   psql -v ON_ERROR_STOP=1 -v relay=ROLE -f recovery.sql ...      also grants the relays' role what it needs
--
-- Run it as the owner of the table, with a search_path that finds user_revisions. You may run
-- it again at any time, next to a running service; it upgrades an older version of itself. It
-- rewrites no table. It waits at most 2 seconds at a time for each lock on the table, holds it
-- for an instant, and builds the index while writers go on. recovery_down.sql undoes it. Relays
-- find the functions when they connect: restart them, or let them reconnect.
--
-- If the relays connect as another role than the one that runs this, -v relay=ROLE grants what
-- they need:
--   SELECT on user_revisions        to find changes
--   SELECT on pgherald.relay_key    to believe the canaries of other relays
-- If user_revisions has row-level security, it must let that role see all rows.
--
-- Rows that existed before the installation count as changed by it: recovery returns them for
-- every older checkpoint. After an upgrade from a version whose trigger did not fire
-- everywhere, all rows count so. Recovery does not find deleted rows. An application that
-- deletes users must keep a row as a tombstone, and increment its revision. Before you change
-- the type of user_id, run recovery_down.sql, and afterwards this again. Run this again also
-- after you restored the database from a dump.
--
-- For any other schema, write a function of the same name and signature:
--   pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
-- and run this file with -v own=1. It then installs only what restarts, failovers and other
-- relays need, and nothing for user_revisions. value is the pubkey on a change channel, the
-- payload on a text channel. The function must return every row changed by a transaction that
-- is visible now and is not visible in the snapshot; it may return more. It and the schema must
-- be owned by a superuser, the owner of the database, the relays' role, or a role that owns
-- every table which the relays' role may read.

-- From here on only pg_catalog is searched: others may have put objects into the search_path of
-- the role that runs this.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.users',
                coalesce(pg_catalog.to_regclass('user_revisions')::pg_catalog.oid::pg_catalog.text, ''), false),
            pg_catalog.set_config('pgherald.searched', pg_catalog.current_setting('search_path'), false),
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END
$$;

-- Replaces settings of the role that are meant for other statements. The last DO restores them.
DO $$
BEGIN
    PERFORM set_config(name, value, false)
    FROM pg_settings JOIN (VALUES ('statement_timeout', '0'), ('transaction_timeout', '0'), ('lock_timeout', '0'),
                                  ('default_transaction_isolation', 'read committed'),
                                  ('client_min_messages', 'warning')) AS v (name, value) USING (name);
END
$$;

SELECT set_config('pgherald.own', CASE WHEN :{?own} THEN 'yes' ELSE 'no' END, false) \g /dev/null
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

-- Nothing is changed before it is clear that everything may be.
DO $$
DECLARE
    users regclass := nullif(current_setting('pgherald.users'), '')::oid::regclass;
BEGIN
    IF to_regnamespace('pgherald') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE') THEN
        RAISE EXCEPTION 'the role % may not create a schema in the database %', current_user, current_database()
              USING HINT = format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user);
    ELSIF current_setting('pgherald.own') = 'no'
          AND NOT pg_has_role((SELECT relowner FROM pg_class WHERE oid = users), 'USAGE') THEN
        RAISE EXCEPTION 'the role % does not own %', current_user, users
              USING HINT = 'Run this as the owner of the table.';
    END IF;
    -- IF NOT EXISTS would ask for the right to create it all the same.
    IF to_regnamespace('pgherald') IS NULL THEN
        CREATE SCHEMA pgherald;
    END IF;
END
$$;

-- Refuses a schema in which a role that we do not trust owns anything: it could replace that
-- later, or read it.
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
    IF NOT has_schema_privilege('pgherald', 'CREATE') THEN
        RAISE EXCEPTION 'the schema pgherald belongs to another role than %', current_user
              USING HINT = 'Run this as the owner of the schema pgherald.';
    END IF;
END
$$;

GRANT USAGE ON SCHEMA pgherald TO PUBLIC;

-- Runs of the server. A checkpoint names a run, which is the time from one start of the server
-- to the next, and an LSN in that run. Each canary notes here how far this server's history
-- contains the run. After a failover, a restart, or a disk that was set back, the relay looks
-- up whether the history contains its checkpoint. Each backend of a run has its own row, so
-- that no canary waits for another or fails because of it.
CREATE TABLE IF NOT EXISTS pgherald.server_run (
    started bigint,  -- pg_postmaster_start_time() in microseconds
    backend integer, -- its number among those that run at once
    upto pg_lsn NOT NULL,
    PRIMARY KEY (started, backend)
) WITH (fillfactor = 10); -- an update stays on its page

\if :{?own}
\else
    -- Ids that a user no longer has. Workers that are subscribed to such an id are told that it
    -- changed. A hash index, since an id may be too long for a B-tree.
    CREATE TABLE IF NOT EXISTS pgherald.former_user (user_id text NOT NULL, changed_xid xid8 NOT NULL);
    CREATE INDEX IF NOT EXISTS former_user_id_idx ON pgherald.former_user USING hash (user_id);
    CREATE INDEX IF NOT EXISTS former_user_changed_xid_idx ON pgherald.former_user (changed_xid);
\endif

-- Relays sign their canaries with the key, and recognise each other by it. A role that can read
-- it can speak for a relay. Only the owner may write the tables, whatever the owner's default
-- privileges grant on a new table.
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
        closed := closed || 'relay_key'::name;
    END IF;
    -- A dump may have brought the table without its row.
    INSERT INTO pgherald.relay_key (key)
        VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
        ON CONFLICT DO NOTHING;
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

-- Every role may call it, since it only notes facts. It must not read rows, or serializable
-- callers would fail. It must not assign the id of a subtransaction: the relay would take that
-- for activity, and never be idle. The NOTIFY is there because a transaction that has notified
-- cannot be prepared: so it ends with its backend, and locks no row that the next backend of
-- this number writes.
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

SELECT NOT :{?own} OR :{?tracked} AS composes \gset
\if :composes
    -- Makes changes_since() of the parts that are installed: the data-sync tables, pgherald.sql's
    -- tracked tables, and an operator's own function that pgherald.sql has found. It is plain SQL,
    -- which the planner inlines. It is parsed in the search_path of its caller, so each name is
    -- qualified. problem() tells what keeps the parts from being right; NULL: nothing.
    CREATE OR REPLACE FUNCTION pgherald.compose_changes_since() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        parts text := (SELECT string_agg(format('SELECT channel::pg_catalog.text, value::pg_catalog.text FROM pgherald.%s(since) AS part (channel, value)',
                                                name), ' UNION ALL ')
                       FROM unnest(ARRAY['changes_of_tracked', 'changes_of_users', 'changes_of_own']) AS n (name)
                       WHERE to_regprocedure(format('pgherald.%s(pg_snapshot)', name)) IS NOT NULL);
        problems text := (SELECT string_agg(format('(SELECT problem FROM pgherald.%s())', name), ', ')
                          FROM unnest(ARRAY['tracking', 'check_users']) AS n (name)
                          WHERE to_regprocedure(format('pgherald.%s()', name)) IS NOT NULL);
        reader record;
    BEGIN
        IF parts IS NULL THEN
            DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot), pgherald.problem();
            RETURN;
        END IF;
        EXECUTE format('CREATE OR REPLACE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)'
                       ' LANGUAGE sql STABLE AS %L', parts);
        COMMENT ON FUNCTION pgherald.changes_since(pg_snapshot) IS 'pgherald 3: what was changed by transactions that the snapshot does not see';
        EXECUTE format('CREATE OR REPLACE FUNCTION pgherald.problem() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS %L',
                       format('SELECT coalesce(%s)', coalesce(problems, 'NULL::text')));
        GRANT EXECUTE ON FUNCTION pgherald.problem() TO PUBLIC;
        IF to_regprocedure('pgherald.changes_of_tracked(pg_snapshot)') IS NULL THEN
            GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO PUBLIC;
            RETURN;
        END IF;
        -- It returns keys of tables that the caller may not be allowed to read. So once every role
        -- could call it, only relays' roles can: those that may read their key.
        IF NOT EXISTS (SELECT FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
                       WHERE pg_proc.oid = 'pgherald.changes_since(pg_snapshot)'::regprocedure AND grantee = 0) THEN
            RETURN;
        END IF;
        REVOKE EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) FROM PUBLIC;
        FOR reader IN
            SELECT DISTINCT pg_get_userbyid(grantee) AS name FROM pg_class, aclexplode(relacl)
            WHERE pg_class.oid = 'pgherald.relay_key'::regclass AND privilege_type = 'SELECT' AND grantee <> 0
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO %I', reader.name);
        END LOOP;
    END
    $$;
\endif

\if :{?own}
\else
    -- Its only name is qualified. A search_path of its own would cost more than all else that
    -- it does.
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

    -- former_users_since() returns ids only to a caller that may read the present ids. While it
    -- runs, current_user is its owner; so the caller is the role of SET ROLE, or the role that
    -- logged in. sees_all_users() fails for a role from which row-level security may hide rows: a
    -- change that it does not see would be lost without a word. Both are given the table by name,
    -- since a dump does not keep oids.
    DO $$
    DECLARE
        users regclass := current_setting('pgherald.users')::oid::regclass;
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
        $f$, users);
        EXECUTE format($f$
            CREATE OR REPLACE FUNCTION pgherald.sees_all_users() RETURNS boolean
            LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
            DECLARE
                -- of the policies for this role that have to do with SELECT
                lets_all boolean;
                takes_some boolean;
            BEGIN
                IF row_security_active(%1$L) THEN
                    SELECT bool_or(polpermissive AND is_true), bool_or(NOT polpermissive AND NOT is_true) INTO lets_all, takes_some
                    FROM (SELECT polpermissive, coalesce(pg_get_expr(polqual, polrelid) = 'true', NOT polpermissive) AS is_true
                          FROM pg_policy
                          WHERE polrelid = %1$L::regclass AND polcmd IN ('r', '*')
                            AND EXISTS (SELECT FROM unnest(polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE'))) AS policies;
                    IF lets_all IS NOT TRUE OR takes_some THEN
                        RAISE insufficient_privilege USING MESSAGE = format(
                            'row-level security of %%s may hide rows from role "%%s"; give it a policy for SELECT with USING (true), or BYPASSRLS',
                            %1$L, current_user);
                    END IF;
                END IF;
                RETURN true;
            END
            $body$
        $f$, users);
    END
    $$;
    GRANT EXECUTE ON FUNCTION pgherald.former_users_since(pg_snapshot), pgherald.sees_all_users() TO PUBLIC;
\endif

-- A function that runs as its owner must have the same owner as the table that it writes.
-- Otherwise a trigger that the table's owner puts on it would run with the rights of another
-- role.
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
    -- Gives up after 2 seconds and tries again: all later queries on the table queue after a
    -- lock request that waits for a long transaction. Drops changes_since() with a new column:
    -- a function that was written for the old one returns wrong rows.
    DO $$
    DECLARE
        users regclass := current_setting('pgherald.users')::oid::regclass;
    BEGIN
        SET LOCAL lock_timeout = '2s';
        FOR attempt IN 1..60 LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = users AND attname = 'changed_xid' AND NOT attisdropped) THEN
                    EXECUTE format('ALTER TABLE %s ADD COLUMN changed_xid xid8', users);
                    DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot), pgherald.changes_of_users(pg_snapshot);
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

    -- The index is in the schema of its table.
    SELECT format('%I.%I', nspname, relname) AS users, format('%I.%I', nspname, 'user_revisions_changed_xid_idx') AS users_index
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = current_setting('pgherald.users')::oid \gset

    -- An interrupted build leaves an invalid index, which IF NOT EXISTS would take for the
    -- index.
    SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:'users_index') AND NOT indisvalid) AS broken \gset
    \if :broken
        DROP INDEX CONCURRENTLY :users_index;
    \endif
    CREATE INDEX CONCURRENTLY IF NOT EXISTS user_revisions_changed_xid_idx ON :users (changed_xid);

    -- The triggers fire ALWAYS, since logical replication also applies changes. One transaction
    -- creates them and the function. If it had to create or enable the trigger, rows may lack a
    -- correct stamp. Then all rows count as changed by this transaction, which has waited for
    -- all transactions that wrote without the trigger. Otherwise the function keeps the
    -- transaction that it has, unless that id comes from another cluster.
    --
    -- The function is plain SQL that the planner inlines, so rows are sent as the index returns
    -- them. It is parsed in the search_path of its caller, so each name is qualified. A stamp
    -- at or above the present transaction ids comes from another cluster, through a dump. The
    -- planner drops the second part if the snapshot sees the transaction of the installation.
    DO $$
    DECLARE
        users regclass := current_setting('pgherald.users')::oid::regclass;
        mended boolean;
        since text; -- the transaction by which all rows count as changed
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
                SELECT substring(obj_description(to_regprocedure(format('pgherald.%s(pg_snapshot)', name)), 'pg_proc')
                                 FROM '^pgherald [23]: .* ([0-9]+)$')
                    INTO since FROM unnest(ARRAY['changes_of_users', 'changes_since']) WITH ORDINALITY AS n (name, place)
                    WHERE to_regprocedure(format('pgherald.%s(pg_snapshot)', name)) IS NOT NULL ORDER BY place LIMIT 1;
                IF mended OR since IS NULL OR since::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) THEN
                    since := pg_current_xact_id()::text;
                END IF;
                EXECUTE format($f$
                    CREATE OR REPLACE FUNCTION pgherald.changes_of_users(since pg_snapshot)
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
                        WHERE pgherald.sees_all_users()
                    $body$
                $f$, users, since);
                EXECUTE format('COMMENT ON FUNCTION pgherald.changes_of_users(pg_snapshot) IS %L',
                               'pgherald 3: what was changed by transactions that the snapshot does not see; all rows by ' || since);
                GRANT EXECUTE ON FUNCTION pgherald.changes_of_users(pg_snapshot) TO PUBLIC;
                EXECUTE format($f$
                    CREATE OR REPLACE FUNCTION pgherald.check_users(OUT problem text)
                    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
                        SELECT CASE
                            WHEN (SELECT changed_xid FROM %1$s WHERE changed_xid IS NOT NULL ORDER BY changed_xid DESC LIMIT 1)
                                 >= pg_snapshot_xmax(pg_current_snapshot())
                                THEN 'rows of %1$s have transaction ids of another cluster, from a dump: run recovery.sql again'
                            WHEN (SELECT count(*) FROM pg_trigger
                                  WHERE tgrelid = %2$L::regclass AND tgname IN ('pgherald_stamp', 'pgherald_former') AND tgenabled = 'A') < 2
                                THEN 'a trigger of %1$s is missing or disabled: run recovery.sql again' END
                    $body$
                $f$, users, users);
                GRANT EXECUTE ON FUNCTION pgherald.check_users() TO PUBLIC;
                PERFORM pgherald.compose_changes_since();
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

\if :{?own}
\else
    -- The trigger gives the rows new stamps.
    UPDATE :users SET user_id = user_id WHERE changed_xid >= pg_snapshot_xmax(pg_current_snapshot());
\endif

\if :{?relay}
    GRANT SELECT ON pgherald.relay_key TO :"relay";
    SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', signature, :'relay')
    FROM to_regprocedure('pgherald.changes_since(pg_snapshot)') AS f (signature) WHERE signature IS NOT NULL \gexec
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
