-- Optional: notifies inside the transaction that writes, for applications that cannot be changed to notify through the relay.
--
-- What it costs: PostgreSQL takes one lock for the whole cluster from the moment a transaction with a NOTIFY queues it
-- until its WAL is flushed, so such transactions commit one at a time, and group commit is gone. With 32 writers, 6,976
-- commits took 6,976 fsyncs; with an fsync of 1 ms, 64 clients reach some 760 commits a second where plain INSERTs reach
-- 17,800. So it is for low write rates: below a few hundred a second. For all others: commit, then notify through the relay,
-- which batches; what a program that dies in between would lose, the relays announce by themselves (recovery.sql).
--
--   psql -v ON_ERROR_STOP=1 -f notify.sql "$DATABASE_DIRECT_URL"
--
-- The originator's client id, if it is to be known, is set in the transaction: SET LOCAL pgherald.client_id = '...'.
-- May be run again; notify_down.sql undoes it.

CREATE SCHEMA IF NOT EXISTS pgherald;

CREATE OR REPLACE FUNCTION pgherald.notify_change() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    client_id text := nullif(current_setting('pgherald.client_id', true), '');
    payload text := '{"p":' || to_json(NEW.user_id::text)
                    || coalesce(',"c":' || to_json(client_id), '') || '}';
BEGIN
    -- pg_notify would raise, and the write would be lost for want of its announcement.
    IF octet_length(payload) < 8000 THEN
        PERFORM pg_notify('data_sync_changes', payload);
    ELSE
        RAISE WARNING 'a change is not notified: its payload would have % bytes', octet_length(payload);
    END IF;
    RETURN NULL;
END
$$;

DO $$
DECLARE
    users regclass := to_regclass('user_revisions');
BEGIN
    IF users IS NULL THEN
        RAISE EXCEPTION 'there is no table user_revisions in the search_path (%)', current_setting('search_path');
    END IF;
    SET LOCAL lock_timeout = '2s';
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = users AND tgname = 'pgherald_notify') THEN
        EXECUTE format('CREATE TRIGGER pgherald_notify AFTER INSERT OR UPDATE ON %s'
                       ' FOR EACH ROW EXECUTE FUNCTION pgherald.notify_change()', users);
    END IF;
END
$$;
