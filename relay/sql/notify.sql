-- Optional: a trigger that notifies inside the transaction that writes, for applications that
-- cannot be changed to notify through the relay.
--
-- What it costs: a transaction with a NOTIFY takes one lock for the whole cluster, from when
-- its commit queues the notification until its WAL is flushed. So such transactions commit one
-- at a time, without group commit. With 32 writers, 6,976 commits took 6,976 fsyncs. With an
-- fsync of 1 ms, 64 clients reach some 760 commits a second, and 17,800 with plain INSERTs. Use
-- it for low write rates only: below a few hundred a second. Otherwise commit, then notify
-- through the relay, which batches. If a program dies between the two, the relays announce the
-- change by themselves (recovery.sql).
--
--   psql -v ON_ERROR_STOP=1 -f notify.sql "$DATABASE_DIRECT_URL"
--
-- To name the originator, set its client id in the transaction:
--   SET LOCAL pgherald.client_id = '...'
-- You may run it again, next to a running service; it upgrades an older version of itself.
-- notify_down.sql undoes it.

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
    IF current_setting('pgherald.users') = '' THEN
        RAISE EXCEPTION 'there is no table user_revisions in the search_path (%)', current_setting('pgherald.searched');
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS pgherald;

-- Refuses a schema in which a role that we do not trust owns anything: it could replace that
-- later.
DO $$
DECLARE
    trusted oid[] := ARRAY(SELECT oid FROM pg_roles WHERE rolname = current_user
                           UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
                           UNION ALL SELECT relowner FROM pg_class WHERE oid = current_setting('pgherald.users')::oid);
    stranger record;
BEGIN
    SELECT * INTO stranger
    FROM (SELECT 'schema', nspname, nspowner FROM pg_namespace WHERE nspname = 'pgherald'
          UNION ALL SELECT 'function', proname, proowner FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace
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

-- It runs as the role that writes the table, and so sets its own search_path. When a user gets
-- another id, it notifies both ids.
CREATE OR REPLACE FUNCTION pgherald.notify_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    client_id text := nullif(current_setting('pgherald.client_id', true), '');
    user_id text;
    payload text;
BEGIN
    FOREACH user_id IN ARRAY CASE
        WHEN TG_OP = 'UPDATE' AND OLD.user_id IS DISTINCT FROM NEW.user_id THEN ARRAY[OLD.user_id::text, NEW.user_id::text]
        ELSE ARRAY[NEW.user_id::text] END
    LOOP
        payload := '{"p":' || to_json(user_id) || coalesce(',"c":' || to_json(client_id), '') || '}';
        -- pg_notify() would raise an error and roll the write back, only because it cannot be
        -- announced.
        IF octet_length(payload) < 8000 THEN
            PERFORM pg_notify('data_sync_changes', payload);
        ELSIF payload IS NULL THEN
            RAISE WARNING 'a change is not notified: its user_id is NULL';
        ELSE
            RAISE WARNING 'a change is not notified: its payload would have % bytes', octet_length(payload);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Gives up after 2 seconds and tries again: all later queries on the table queue after a lock
-- request that waits for a long transaction. The trigger fires ALWAYS, since logical
-- replication also applies changes.
DO $$
DECLARE
    users regclass := current_setting('pgherald.users')::oid::regclass;
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR attempt IN 1..60 LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_notify') THEN
                EXECUTE format('CREATE TRIGGER pgherald_notify AFTER INSERT OR UPDATE ON %s'
                               ' FOR EACH ROW EXECUTE FUNCTION pgherald.notify_change()', users);
            END IF;
            IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_notify' AND tgenabled = 'A') THEN
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pgherald_notify', users);
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

DO $$
BEGIN
    PERFORM set_config(name, reset_val, false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'lock_timeout', 'default_transaction_isolation',
                   'client_min_messages');
    PERFORM set_config('search_path', current_setting('pgherald.searched'), false);
END
$$;
