-- Tells workers of every change of any table, exactly, and recovers what was missed.
--
--   psql -v ON_ERROR_STOP=1 -f pgherald.sql "$DATABASE_DIRECT_URL"
--   psql -v ON_ERROR_STOP=1 -v relay=ROLE -f pgherald.sql ...      if the relays connect as another role
--
-- It needs recovery.sql next to it, no extension and no superuser. All of it is installed, or
-- nothing. You may run it again at any time, next to a running service; it upgrades an older
-- version of itself. pgherald_down.sql undoes it. It adds these functions:
--
--   pgherald.track(table, channel, key, notify => false)
--       From now on each INSERT, UPDATE, DELETE and TRUNCATE of the table is a change of `key`
--       on the channel. key names a column, or is an SQL expression over the row. It is
--       evaluated with the rights of the role that installed this, and finds unqualified names
--       in pg_catalog only. A row whose key is NULL does not count. A row that gets another key
--       tells both. You may track a table several times, with different channels or keys.
--       A key does not depend on the writer's settings: dates are ISO, times are of UTC, bytea is
--       hexadecimal. If the expression fails for a row, so does the write. To rename the key's
--       column, or to change its type, call untrack() before and track() after it, in the same
--       transaction.
--       notify: also sends a NOTIFY in each transaction, so workers hear at once and not within
--       two intervals. Such transactions commit one at a time, so use it for low write rates
--       only (notify.sql has figures), and they cannot be prepared (PREPARE TRANSACTION).
--   pgherald.untrack(table, channel => NULL, key => NULL)
--       Ends that: for the table, or only for this channel, or only for this key.
--   pgherald.send(channel, payload, notify => false)
--       Sends a message on a text channel, as a part of the transaction. Workers hear it within
--       two intervals after the commit. notify: as above. Equal messages that are sent within one
--       interval may be heard as one, as NOTIFY has it within one transaction.
--   pgherald.retain(messages => NULL, deleted => NULL)
--       Sets how long sent messages are kept (an hour at first), and the keys of deleted rows
--       (7 days). A worker that missed more than that is told of a gap. NULL leaves it.
--
--   SELECT * FROM pgherald.tracked        shows what is tracked, and what is wrong with it
--
-- Only the role that installs this may call track(), untrack() and retain(); it must own the
-- table, or be a member of the role that does. Every role may call send(),
-- as every role may NOTIFY. A role that writes a tracked table needs no right here. The relays'
-- role needs EXECUTE on pgherald.changes_since(pg_snapshot), which -v relay=ROLE grants.
--
-- The key is evaluated with the rights of the role that installed this. If it is an expression,
-- the owners of the table and of the types of its columns can change what that runs: use one only
-- where you trust them. What the key is when it is a column, they cannot abuse.
--
-- How it works. A trigger notes the keys of a statement in pgherald.journal. No two writers ever
-- wait for each other there. Relays call pgherald.fold(): it moves the rows that are older
-- than a minute to pgherald.folded, which has one row a key. So its size follows the number of
-- keys and not that of changes. Do not restore these tables without the rest of the database.
--
-- What it does not see: DROP TABLE; a partition that is detached or dropped; the rows of a
-- partition that is attached, and a TRUNCATE of a partition that was added after track(), until
-- track() is called again; what is written to a foreign partition by other ways than this
-- database; writes to a table that inherits from a tracked one, unless it is tracked too; rows
-- that a table loses through a crash while it is unlogged. The view tracked tells of most of
-- these. If triggers were disabled for a while, it says so until track() is called again, which
-- is a gap for all workers. So is a TRUNCATE in a transaction that is repeatable read or
-- serializable: it removes rows that it does not see.

\set ON_ERROR_STOP on
BEGIN;

-- What restarts, failovers and other relays need.
\set own 1
\set tracked 1
\ir recovery.sql
\unset own
\unset tracked

SELECT pg_catalog.set_config('pgherald.searched', pg_catalog.current_setting('search_path'), true) \g /dev/null
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
-- An upgrade leaves who may call it as it is.
SELECT to_regprocedure('pgherald.send(text, text, boolean)') IS NOT NULL AS sends \gset

CREATE TABLE IF NOT EXISTS pgherald.tracked_table (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tbl regclass NOT NULL,
    channel text COLLATE "C" NOT NULL,
    key text NOT NULL,
    notify boolean NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    since_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    by_column boolean NOT NULL, -- the key is the name of a column
    name name NOT NULL,         -- of the table at that time: an expression may use it
    UNIQUE (tbl, channel, key)
);

-- Changes that were not folded yet: of one key, of many keys, or, if both are NULL, of any key of
-- the channel. gone: the row was deleted, or got another key. notified: the transaction sent a
-- NOTIFY too.
CREATE TABLE IF NOT EXISTS pgherald.journal (
    changed_xid bigint NOT NULL,
    gone boolean NOT NULL,
    notified boolean NOT NULL,
    channel text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    keys text[] COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000);

-- The last change of each key. A key may be too long for a B-tree.
CREATE TABLE IF NOT EXISTS pgherald.folded (
    changed_xid xid8 NOT NULL,
    gone boolean NOT NULL,
    channel text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE IF NOT EXISTS pgherald.message (
    sent_xid xid8 NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    notified boolean NOT NULL,
    channel text COLLATE "C" NOT NULL,
    payload text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- CREATE INDEX IF NOT EXISTS would keep writers out, although the index exists.
DO $$
BEGIN
    IF to_regclass('pgherald.message_sent_xid_idx') IS NULL THEN
        CREATE INDEX journal_changed_xid_idx ON pgherald.journal (changed_xid);
        CREATE UNIQUE INDEX folded_key_idx ON pgherald.folded (channel, key) WHERE octet_length(key) <= 1000;
        CREATE UNIQUE INDEX folded_long_key_idx
            ON pgherald.folded (channel, octet_length(key), hashtextextended(key, 0), hashtextextended(key, 1))
            WHERE octet_length(key) > 1000;
        CREATE INDEX folded_changed_xid_idx ON pgherald.folded (changed_xid);
        CREATE INDEX folded_gone_idx ON pgherald.folded (changed_xid) WHERE gone;
        CREATE INDEX message_sent_xid_idx ON pgherald.message (sent_xid);
    END IF;
END
$$;

-- At this time every transaction before upto had ended. So the age of a change counts from its
-- commit, even if its transaction was prepared an hour earlier.
CREATE TABLE IF NOT EXISTS pgherald.moment (
    at timestamptz PRIMARY KEY,
    upto xid8 NOT NULL
);

-- forgotten_xid: the last transaction of which something is no longer kept; why is for people.
-- folded_upto: the journal has no more rows of transactions before this one.
CREATE TABLE IF NOT EXISTS pgherald.retention (
    messages interval NOT NULL DEFAULT '1 hour',
    deleted interval NOT NULL DEFAULT '7 days',
    forgotten_xid xid8,
    why text,
    folded_upto bigint NOT NULL DEFAULT 0,
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
);
INSERT INTO pgherald.retention DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Only the owner may read or write the tables, whatever its default privileges grant on a new
-- table.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT c.oid::regclass AS relation,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'pgherald'::regnamespace AND a.grantee <> c.relowner
          AND c.relname = ANY (ARRAY['tracked_table', 'journal', 'folded', 'message', 'moment', 'retention'])
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', granted.relation, granted.grantee);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgherald.number_of(xid xid8) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT xid::text::bigint $$;

-- Raises an error unless the caller of a function that runs as its owner may call
-- changes_since(). While such a function runs, current_user is its owner; so the caller is the
-- role of SET ROLE, or the role that logged in.
CREATE OR REPLACE FUNCTION pgherald.check_caller() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    IF NOT has_function_privilege(caller, 'pgherald.changes_since(pg_snapshot)', 'EXECUTE') THEN
        RAISE insufficient_privilege
              USING MESSAGE = format('the role %s may not read what was changed', caller),
                    HINT = format('GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO %I', caller);
    END IF;
END
$$;

-- What a NOTIFY of this change carries; NULL: no NOTIFY can.
CREATE OR REPLACE FUNCTION pgherald.change_payload(key text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT payload
    FROM (SELECT '{"p":' || to_json(key)
                 || coalesce(',"c":' || to_json(nullif(current_setting('pgherald.client_id', true), '')), '') || '}') AS p (payload)
    WHERE octet_length(payload) < 8000
$$;

-- Tries again for two minutes, and waits for 2 seconds at a time: all later queries on the
-- table queue after a lock request that waits for a long transaction.
CREATE OR REPLACE FUNCTION pgherald.execute_patiently(statements text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    statement text;
BEGIN
    FOR attempt IN 1..60 LOOP
        BEGIN
            FOREACH statement IN ARRAY statements LOOP
                EXECUTE statement;
            END LOOP;
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

-- An older version noted each key in a row of its own. Writers of a tracked table wait before they
-- hold anything: they get new triggers at the end.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgherald.journal'::regclass AND attname = 'keys') THEN
        PERFORM pgherald.execute_patiently(ARRAY(SELECT DISTINCT format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', t.tbl)
                                                 FROM pgherald.tracked_table AS t JOIN pg_class AS c ON c.oid = t.tbl));
        ALTER TABLE pgherald.journal ADD COLUMN keys text[] COLLATE "C";
        DROP INDEX pgherald.journal_changed_xid_idx;
        CREATE INDEX journal_changed_xid_idx ON pgherald.journal (changed_xid);
    END IF;
END
$$;

-- Whether writes to the table may name another: it is partitioned, or has a parent, or once had.
-- These functions are in PL/pgSQL because that keeps plans: relays ask for every tracked table.
CREATE OR REPLACE FUNCTION pgherald.is_of_family(tracked pgherald.tracked_table) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT relkind = 'p' FROM pg_class WHERE oid = tracked.tbl)
        OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = tracked.tbl)
        OR EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = tracked.tbl AND tgname = format('pgherald_%s_row', tracked.id) AND tgenabled = 'A');
END
$$;

-- The column that is the key; no row: an expression is, or the table no longer has the column.
-- Triggers do not see the value of a virtual column. is_builtin: only a superuser makes types
-- of its category. is_plain: the settings of the session do not change its text.
CREATE OR REPLACE FUNCTION pgherald.key_column(tracked pgherald.tracked_table)
RETURNS TABLE (attnum smallint, type regtype, is_builtin boolean, is_plain boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT a.attnum, a.atttypid::regtype, t.typnamespace = 'pg_catalog'::regnamespace AND t.typcategory NOT IN ('A', 'C', 'E', 'P', 'R'),
               t.typcategory IN ('S', 'B', 'E')
               OR t.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'uuid'::regtype)
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE tracked.by_column AND a.attrelid = tracked.tbl AND a.attname = tracked.key AND a.attnum > 0
          AND NOT a.attisdropped AND a.attgenerated <> 'v';
END
$$;

-- The SQL of a tracked table's key, over a row of this name (empty: no name). A column's text is
-- that of its type's output function, unless the type is PostgreSQL's own: a cast could be
-- anybody's function. coalesce() is an error if the column gets a type of another category later.
-- Keys are equal if their bytes are, whatever the column's collation says.
CREATE OR REPLACE FUNCTION pgherald.key_sql(tracked pgherald.tracked_table, prefix text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN tracked.by_column THEN (
            SELECT format(CASE WHEN is_builtin THEN 'coalesce(%1$s%2$I, NULL::%3$s)::text'
                               ELSE 'CASE WHEN %1$s%2$I IS DISTINCT FROM NULL THEN format(''%%s'', %1$s%2$I) END' END,
                          prefix, tracked.key, type)
            FROM pgherald.key_column(tracked))
        WHEN prefix = '' THEN format(E'((%s\n))::text', tracked.key)
        ELSE format(E'(SELECT ((%s\n))::text FROM (SELECT %s*) AS %I)', tracked.key, prefix, tracked.name)
        END || ' COLLATE "C"';
END
$$;

-- The keys of the rows that the table, or a partition of it, has. NULL: it has more than 100,000
-- rows, or the role may not read them all; each worker had better read again what it needs. The
-- settings are those of the triggers' functions.
CREATE OR REPLACE FUNCTION pgherald.present_keys(of_id integer, relation regclass) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off SET standard_conforming_strings = on
SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET bytea_output = 'hex' SET extra_float_digits = 1
SET lc_monetary = 'C' AS $$
DECLARE
    t pgherald.tracked_table := (SELECT t FROM pgherald.tracked_table AS t WHERE id = of_id);
    keys text[];
    n bigint;
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(DISTINCT k) FILTER (WHERE k IS NOT NULL), ''{}''), count(*)'
                   ' FROM (SELECT %s FROM %s AS %I LIMIT 100001) AS keys (k)', pgherald.key_sql(t, ''), relation, t.name) INTO keys, n;
    RETURN CASE WHEN n <= 100000 THEN keys END;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;

-- The triggers of a tracked table, and whether they are as they should be.
--
-- Triggers for statements are the cheapest: one INSERT, whatever the number of rows. They do not
-- look for equal keys, which would cost a statement of one row more than all the rest. Once a
-- transaction has written more than 1,000 rows of the table, they note 100 keys in a row. When the
-- key is a column, a trigger for rows notes the old key of those rows alone that get another.
--
-- Which triggers for statements fire depends on the table that the statement names, so partitions
-- get triggers for rows. Logical replication fires only triggers for rows, but for TRUNCATE.
CREATE OR REPLACE FUNCTION pgherald.triggers_of(tracked pgherald.tracked_table)
RETURNS TABLE (relation regclass, name name, definition text, mode "char", is_right boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH key_column AS (
        -- Equal values may have different texts.
        SELECT attnum, CASE WHEN type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype)
                                THEN format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', tracked.key)
                            WHEN type IN ('text'::regtype, 'varchar'::regtype)
                                THEN format('OLD.%1$I COLLATE "C" IS DISTINCT FROM NEW.%1$I COLLATE "C"', tracked.key)
                            WHEN is_plain
                                THEN format('%s IS DISTINCT FROM %s', pgherald.key_sql(tracked, 'OLD.'), pgherald.key_sql(tracked, 'NEW.'))
                            ELSE format('record_image_ne(ROW(OLD.%1$I), ROW(NEW.%1$I))', tracked.key) END AS differs
        FROM pgherald.key_column(tracked)
    ), family AS (
        SELECT pgherald.is_of_family(tracked) AS is_one
    ), wanted (relation, kind, fires, clauses, mode) AS (
        SELECT tracked.tbl, 'row', 'AFTER INSERT OR UPDATE OR DELETE', 'FOR EACH ROW', CASE WHEN is_one THEN 'A' ELSE 'R' END
        FROM family
        UNION ALL
        SELECT tracked.tbl, v.kind, 'AFTER ' || v.fires, v.clauses, 'O'
        FROM (SELECT 'insert', 'INSERT', 'REFERENCING NEW TABLE AS pgherald_new FOR EACH STATEMENT'
              UNION ALL
              SELECT 'delete', 'DELETE', 'REFERENCING OLD TABLE AS pgherald_old FOR EACH STATEMENT'
              UNION ALL
              SELECT 'update', 'UPDATE', CASE WHEN tracked.by_column THEN 'REFERENCING NEW TABLE AS pgherald_new FOR EACH STATEMENT'
                     ELSE 'REFERENCING OLD TABLE AS pgherald_old NEW TABLE AS pgherald_new FOR EACH STATEMENT' END
              UNION ALL
              SELECT 'key', 'UPDATE', format('FOR EACH ROW WHEN (%s)', differs) FROM key_column
             ) AS v (kind, fires, clauses), family
        WHERE NOT is_one
        UNION ALL
        SELECT relid, 'truncate', 'BEFORE TRUNCATE', 'FOR EACH STATEMENT', 'A'
        FROM (SELECT tracked.tbl AS relid UNION SELECT relid FROM pg_partition_tree(tracked.tbl)) AS of_tree
        WHERE (SELECT relkind FROM pg_class WHERE oid = relid) <> 'f'
    )
    SELECT w.relation, n.trigger::name,
           format('CREATE TRIGGER %s %s ON %s %s EXECUTE FUNCTION pgherald.%s()', n.trigger, w.fires, w.relation, w.clauses, n.function),
           w.mode::"char",
           EXISTS (SELECT FROM pg_trigger AS t
                   WHERE t.tgrelid = w.relation AND t.tgname = n.trigger AND t.tgenabled = w.mode::"char"
                     AND t.tgfoid = to_regproc('pgherald.' || n.function)
                     -- Another column may have got the name.
                     AND (w.kind <> 'key' OR EXISTS (SELECT FROM pg_depend
                                                     WHERE classid = 'pg_trigger'::regclass AND objid = t.oid AND refobjid = w.relation
                                                       AND refobjsubid = (SELECT attnum FROM key_column))))
    FROM wanted AS w,
         LATERAL (SELECT format('pgherald_%s_%s', tracked.id, w.kind), format('changed_%s_%s', tracked.id, CASE w.kind WHEN 'key' THEN 'row' ELSE w.kind END)) AS n (trigger, function);
END
$$;

-- The triggers that partitions have got from the table, and that do not fire everywhere.
-- PostgreSQL 13 and 14 enable them one by one.
CREATE OR REPLACE FUNCTION pgherald.idle_triggers_of(tracked pgherald.tracked_table) RETURNS SETOF pg_trigger
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT t.* FROM pg_partition_tree(tracked.tbl) AS p JOIN pg_trigger AS t ON t.tgrelid = p.relid
    WHERE t.tgname = format('pgherald_%s_row', tracked.id) AND t.tgenabled <> 'A' AND p.level > 0;
END
$$;

-- What is wrong with a tracked table; NULL: nothing.
CREATE OR REPLACE FUNCTION pgherald.problem_of(tracked pgherald.tracked_table) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    wrong regclass[] := ARRAY(SELECT relation FROM pgherald.triggers_of(tracked) WHERE NOT is_right);
    unlogged regclass := (SELECT oid FROM pg_class WHERE relpersistence = 'u' AND oid = ANY (
                              ARRAY(SELECT tracked.tbl UNION ALL SELECT relid FROM pg_partition_tree(tracked.tbl))) LIMIT 1);
BEGIN
    RETURN CASE
        WHEN unlogged IS NOT NULL
            THEN format('%s is unlogged: a crash empties it, and workers do not hear of it', unlogged)
        WHEN pgherald.key_sql(tracked, '') IS NULL
            THEN format('the table no longer has the key "%s", so writes fail: call pgherald.untrack(), and track() with another key',
                        tracked.key)
        WHEN EXISTS (SELECT FROM pg_inherits WHERE inhrelid = tracked.tbl)
             AND EXISTS (SELECT FROM pg_trigger
                         WHERE tgrelid = tracked.tbl AND tgname = format('pgherald_%s_row', tracked.id) AND tgenabled = 'R')
            THEN 'the table has got a parent: call pgherald.track() again'
        WHEN tracked.tbl = ANY (wrong) OR EXISTS (SELECT FROM pgherald.idle_triggers_of(tracked))
            THEN 'a trigger is missing or disabled, or was for a while: call pgherald.track() again'
        WHEN cardinality(wrong) > 0
            THEN 'workers do not hear of a TRUNCATE of a new partition: call pgherald.track() again'
        ELSE (SELECT format('workers do not hear of writes to %s, which inherits from the table: call pgherald.track() for it too',
                            inhrelid::regclass)
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
              WHERE inhparent = tracked.tbl AND relkind = 'r'
                AND NOT EXISTS (SELECT FROM pgherald.tracked_table AS t WHERE t.tbl = inhrelid AND t.channel = tracked.channel)
              LIMIT 1)
        END;
END
$$;

CREATE OR REPLACE VIEW pgherald.tracked AS
    SELECT t.tbl, t.channel::text, t.key, t.notify, t.since, pgherald.problem_of(t) AS problem
    FROM pgherald.tracked_table AS t JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tbl
    ORDER BY t.id;

-- Makes the functions and the triggers of a tracked table, or mends them. track() calls it, and an
-- upgrade. The functions run as their owner, and take nothing from a row but values.
CREATE OR REPLACE FUNCTION pgherald.make_triggers(of_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $make$
DECLARE
    t pgherald.tracked_table;
    owner name := (SELECT relowner::regrole FROM pg_class WHERE oid = 'pgherald.journal'::regclass);
    adds regrole; -- may add partitions
    key text;
    keys_of text; -- a format for: the transition table, the key, the table's name, whether the rows are gone, the column
    note text; -- a format for: a query of keys, and of whether their rows are gone
    note_many text; -- the same, 100 keys in a row
    note_statement text; -- a format for: that query, and what happens to the rows
    note_keys text[]; -- of a new row, of an old one
    bodies text[];
    settings text;
    mended regclass[]; -- tables with triggers that were not as they should be
BEGIN
    SELECT * INTO STRICT t FROM pgherald.tracked_table WHERE id = of_id;
    key := pgherald.key_sql(t, '');
    IF key IS NULL THEN
        RETURN; -- see problem_of()
    END IF;
    -- With a condition on the key, the planner would make the key twice.
    keys_of := CASE WHEN EXISTS (SELECT FROM pgherald.key_column(t) WHERE is_builtin)
                    THEN 'SELECT %2$s, %4$s FROM %1$s AS %3$I WHERE %5$I IS NOT NULL'
                    ELSE 'SELECT k, %4$s FROM (SELECT %2$s FROM %1$s AS %3$I) AS of_rows (k) WHERE k IS NOT NULL' END;
    note := 'INSERT INTO pgherald.journal SELECT txid_current(), gone, '
            || CASE WHEN t.notify THEN 'pgherald.change_payload(k) IS NOT NULL' ELSE 'false' END
            || replace(format(', %L', t.channel), '%', '%%') || ', k FROM (%1$s) AS keys (k, gone)';
    note_many := 'INSERT INTO pgherald.journal SELECT txid_current(), gone, false'
                 || replace(format(', %L', t.channel), '%', '%%') || ', NULL, array_agg(k)'
                    ' FROM (SELECT *, row_number() OVER () / 100 AS place FROM (%1$s) AS keys (k, gone)) AS placed GROUP BY place, gone';
    note_keys := ARRAY(SELECT format('INSERT INTO pgherald.journal VALUES (txid_current(), %s, false, %L, %s)', gone, t.channel, of_row)
                       FROM (VALUES (1, 'false', 'pgherald_key'), (2, 'true', 'pgherald_old')) AS v (place, gone, of_row) ORDER BY place);
    note_statement := 'IF pg_stat_get_xact_tuples_%2$s(TG_RELID) > 1000 THEN ' || note_many || '; ELSE ' || note || '; END IF';
    IF t.notify THEN
        note := 'WITH noted AS (' || note || ' GROUP BY k, gone RETURNING key, notified) SELECT count(pg_notify('
                || replace(quote_literal(t.channel), '%', '%%') || ', pgherald.change_payload(key))) INTO told FROM noted WHERE notified';
        note_many := note;
        note_statement := note;
        note_keys := ARRAY[format(note, 'VALUES (pgherald_key, false)'), format(note, 'VALUES (pgherald_old, true)')];
    END IF;

    -- TRUNCATE also removes rows that a snapshot of the whole transaction does not see.
    bodies := ARRAY[
        'insert', format(note_statement, format(keys_of, 'pgherald_new', key, t.name, 'false', t.key), 'inserted'),
        'delete', format(note_statement, format(keys_of, 'pgherald_old', key, t.name, 'true', t.key), 'deleted'),
        'update', format(note_statement,
                         CASE WHEN t.by_column THEN format(keys_of, 'pgherald_new', key, t.name, 'false', t.key)
                              ELSE format('SELECT k, bool_and(gone) FROM (SELECT %1$s, true FROM pgherald_old AS %2$I'
                                          ' UNION ALL SELECT %1$s, false FROM pgherald_new AS %2$I) AS of_rows (k, gone)'
                                          ' WHERE k IS NOT NULL GROUP BY k', key, t.name) END, 'updated'),
        'row', format('IF TG_OP <> ''DELETE'' THEN pgherald_key := %s; IF pgherald_key IS NOT NULL THEN %s; END IF; END IF;'
                      ' IF TG_OP <> ''INSERT'' THEN pgherald_old := %s; IF pgherald_old IS NOT NULL AND pgherald_old IS DISTINCT FROM pgherald_key'
                      ' THEN %s; END IF; END IF', pgherald.key_sql(t, 'NEW.'), note_keys[1], pgherald.key_sql(t, 'OLD.'), note_keys[2]),
        'truncate', format('IF current_setting(''transaction_isolation'') LIKE ''read %%'' THEN removed := pgherald.present_keys(%s, TG_RELID);'
                           ' END IF; IF removed IS NULL THEN'
                           ' INSERT INTO pgherald.journal VALUES (txid_current(), true, false, %L, NULL); ELSE %s; END IF',
                           t.id, t.channel, format(note_many, 'SELECT k, true FROM unnest(removed) AS k'))];
    -- They cost something, and the text of most keys does not depend on them.
    settings := CASE WHEN EXISTS (SELECT FROM pgherald.key_column(t) WHERE is_plain) THEN ''
                     ELSE ' SET standard_conforming_strings = on SET datestyle = ''ISO, MDY'' SET intervalstyle = ''postgres'''
                          ' SET timezone = ''UTC'' SET bytea_output = ''hex'' SET extra_float_digits = 1 SET lc_monetary = ''C''' END;
    FOR place IN 1..array_length(bodies, 1) BY 2 LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pgherald.changed_%1$s_%2$s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
                       ' SET search_path = pg_catalog, pg_temp%3$s AS %4$L', t.id, bodies[place], settings,
                       E'#variable_conflict use_column\n'
                       || CASE bodies[place] WHEN 'truncate' THEN 'DECLARE told bigint; removed text[]; '
                                             WHEN 'row' THEN 'DECLARE told bigint; pgherald_key text COLLATE "C"; pgherald_old text COLLATE "C"; '
                                             ELSE CASE WHEN t.notify THEN 'DECLARE told bigint; ' ELSE '' END END
                       || 'BEGIN ' || bodies[place + 1] || '; RETURN NULL; END');
        EXECUTE format('ALTER FUNCTION pgherald.changed_%1$s_%2$s() OWNER TO %3$I;'
                       ' REVOKE ALL ON FUNCTION pgherald.changed_%1$s_%2$s() FROM PUBLIC', t.id, bodies[place], owner);
    END LOOP;
    -- A new partition gets the trigger for rows with the rights of the role that adds it.
    FOR adds IN SELECT DISTINCT relowner::regrole FROM pg_partition_tree(t.tbl) JOIN pg_class ON oid = relid WHERE relkind = 'p' LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgherald.changed_%s_row() TO %s', t.id, adds);
    END LOOP;

    mended := ARRAY(SELECT relation FROM pgherald.triggers_of(t) WHERE NOT is_right
                    UNION SELECT t.tbl FROM pgherald.idle_triggers_of(t));
    PERFORM pgherald.execute_patiently(ARRAY(
        SELECT format('DROP TRIGGER IF EXISTS %I ON %s; %s', name, relation, definition)
               || CASE mode WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s ENABLE %s TRIGGER %I', relation,
                                                         CASE mode WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, name) END
        FROM pgherald.triggers_of(t) WHERE NOT is_right
        UNION ALL
        SELECT format('DROP TRIGGER %I ON %s', tgname, t.tbl) FROM pg_trigger
        WHERE tgrelid = t.tbl AND starts_with(tgname, format('pgherald_%s_', t.id))
          AND tgname NOT IN (SELECT name FROM pgherald.triggers_of(t))));
    PERFORM pgherald.execute_patiently(ARRAY(
        SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', tgrelid::regclass, tgname) FROM pgherald.idle_triggers_of(t)));
    -- Those of an older version.
    EXECUTE format('DROP FUNCTION IF EXISTS pgherald.changed_%1$s_new(), pgherald.changed_%1$s_old(), pgherald.changed_%1$s_both()', of_id);

    -- What was written without them: the rows that a partition has are known, what was deleted
    -- is not.
    IF t.since_xid <> pg_current_xact_id() THEN
        IF t.tbl = ANY (mended) THEN
            INSERT INTO pgherald.journal VALUES (txid_current(), true, false, t.channel, NULL);
        ELSE
            INSERT INTO pgherald.journal
                SELECT txid_current(), keys IS NULL, false, t.channel, NULL, keys
                FROM unnest(mended) AS of_table, pgherald.present_keys(t.id, of_table) AS keys;
        END IF;
    END IF;
END
$make$;

CREATE OR REPLACE FUNCTION pgherald.check_channel(channel text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF channel IS NULL OR octet_length(channel) NOT BETWEEN 1 AND 63 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a channel has a name of 1 to 63 bytes';
    ELSIF channel IN ('pgherald_canary', 'pgherald_run') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the channel %s is the relays'' own', channel);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgherald.drop_functions(of_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS pgherald.changed_%1$s_insert(), pgherald.changed_%1$s_update(), pgherald.changed_%1$s_delete(),'
                   ' pgherald.changed_%1$s_row(), pgherald.changed_%1$s_truncate()', of_id);
END
$$;

-- Forgets tables that were dropped, and drops what belongs to no tracked table: a dump may bring
-- triggers without the rows of tracked_table, and another table would get the number of theirs.
CREATE OR REPLACE FUNCTION pgherald.clear_dropped() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_id integer;
BEGIN
    DELETE FROM pgherald.tracked_table WHERE NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = tbl);
    FOR of_id IN SELECT substring(proname FROM '^changed_([0-9]+)_')::integer FROM pg_proc
                 WHERE pronamespace = 'pgherald'::regnamespace
                 EXCEPT SELECT id FROM pgherald.tracked_table
    LOOP
        CONTINUE WHEN of_id IS NULL;
        PERFORM pgherald.execute_patiently(ARRAY(
            SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
            WHERE pronamespace = 'pgherald'::regnamespace AND starts_with(proname, format('changed_%s_', of_id)) AND tgparentid = 0));
        PERFORM pgherald.drop_functions(of_id);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgherald.track(tbl regclass, channel text, key text, notify boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c pg_class;
    t pgherald.tracked_table;
BEGIN
    SELECT * INTO c FROM pg_class WHERE oid = track.tbl;
    IF NOT pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = 'pgherald'), 'USAGE') THEN
        RAISE insufficient_privilege
              USING MESSAGE = format('the role %s may not track a table', current_user),
                    HINT = format('Track it as %s, who installed pgherald.',
                                  (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'pgherald'));
    ELSIF track.tbl IS NULL OR track.key IS NULL OR track.notify IS NULL OR btrim(track.key) = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a table, a channel and a key are needed';
    ELSIF c.oid IS NULL OR c.relkind NOT IN ('r', 'p') OR c.relnamespace IN ('pg_catalog'::regnamespace, 'pgherald'::regnamespace)
          OR (SELECT nspname IN ('pg_toast', 'information_schema') FROM pg_namespace WHERE oid = c.relnamespace) THEN
        RAISE wrong_object_type
              USING MESSAGE = format('%s cannot be tracked: it is not a table of yours', track.tbl),
                    HINT = 'A view has no changes of its own: track the tables under it. A foreign table is changed elsewhere.';
    ELSIF c.relpersistence <> 'p' THEN
        RAISE wrong_object_type
              USING MESSAGE = format('%s cannot be tracked: it is temporary or unlogged', track.tbl),
                    HINT = 'A crash empties an unlogged table, and workers would not be told.';
    ELSIF NOT pg_has_role(c.relowner, 'USAGE') THEN
        -- The right TRIGGER does not allow ENABLE REPLICA TRIGGER.
        RAISE insufficient_privilege
              USING MESSAGE = format('the role %s does not own %s, and so may not track it', current_user, track.tbl),
                    HINT = format('GRANT %I TO %I', pg_get_userbyid(c.relowner), current_user);
    END IF;
    PERFORM pgherald.check_channel(track.channel);
    -- The name that an expression may use stays that of when tracking began.
    SELECT * INTO t FROM pgherald.tracked_table WHERE tbl = c.oid AND channel = track.channel AND key = track.key;
    t.name := coalesce(t.name, c.relname);
    t.tbl := c.oid;
    t.key := track.key;
    t.by_column := true;
    t.by_column := EXISTS (SELECT FROM pgherald.key_column(t));
    IF NOT t.by_column THEN
        -- In WHERE, an aggregate or a function that returns a set is refused.
        BEGIN
            EXECUTE format(E'SELECT FROM (SELECT %s FROM %s WHERE false) AS %I WHERE ((%s\n))::text IS NULL',
                           (SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
                            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'),
                           c.oid::regclass, t.name, track.key);
        EXCEPTION WHEN OTHERS THEN
            RAISE invalid_parameter_value
                  USING MESSAGE = format('the key "%s" is neither a column of %s nor an expression over its row: %s',
                                         track.key, track.tbl, SQLERRM),
                        HINT = 'Qualify names that are not in pg_catalog. Triggers do not see virtual columns.';
        END;
    END IF;

    PERFORM pgherald.clear_dropped();
    INSERT INTO pgherald.tracked_table AS old (tbl, channel, key, notify, by_column, name)
        VALUES (track.tbl, track.channel, track.key, track.notify, t.by_column, t.name)
        ON CONFLICT (tbl, channel, key) DO UPDATE SET notify = EXCLUDED.notify, by_column = EXCLUDED.by_column
        RETURNING * INTO t;
    PERFORM pgherald.make_triggers(t.id);
END
$$;

CREATE OR REPLACE FUNCTION pgherald.untrack(tbl regclass, channel text DEFAULT NULL, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = 'pgherald'), 'USAGE') THEN
        RAISE insufficient_privilege USING MESSAGE = format('the role %s may not untrack a table', current_user);
    END IF;
    DELETE FROM pgherald.tracked_table AS t
        WHERE t.tbl = untrack.tbl AND t.channel = coalesce(untrack.channel, t.channel) AND t.key = coalesce(untrack.key, t.key);
    IF NOT FOUND THEN
        RAISE NOTICE '% was not tracked', untrack.tbl;
    END IF;
    PERFORM pgherald.clear_dropped();
END
$$;

CREATE OR REPLACE FUNCTION pgherald.send(channel text, payload text, notify boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgherald.check_channel(channel);
    IF payload IS NULL OR octet_length(payload) >= 8000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a payload has less than 8000 bytes, and is not NULL';
    ELSIF notify IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'notify is true or false, and not NULL';
    END IF;
    INSERT INTO pgherald.message (sent_xid, notified, channel, payload) VALUES (pg_current_xact_id(), notify, channel, payload);
    IF notify THEN
        PERFORM pg_notify(channel, payload);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgherald.retain(messages interval DEFAULT NULL, deleted interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF least(messages, deleted) < '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'an interval to retain is not negative';
    ELSIF greatest(messages, deleted) > '1000 years' THEN
        -- fold() subtracts it from the present time.
        RAISE invalid_parameter_value USING MESSAGE = 'an interval to retain is at most 1000 years';
    END IF;
    UPDATE pgherald.retention AS r SET messages = coalesce(retain.messages, r.messages), deleted = coalesce(retain.deleted, r.deleted);
END
$$;

-- The channels of the relay that asks (see changes_of_tracked()).
CREATE OR REPLACE FUNCTION pgherald.asked_channels() RETURNS TABLE (name text, carries_changes boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_from(decode(substr(c, 3), 'hex'), 'UTF8'), c LIKE 'c:%'
    FROM unnest(string_to_array(nullif(current_setting('pgherald.channels', true), ''), ',')) AS n (c)
$$;

-- Two settings of the transaction tell what the relay asks for. pgherald.question: 'unheard'
-- leaves out what transactions notified themselves. pgherald.channels: the relay's change
-- channels, each as 'c:' (text channels: 't:') and the name in hexadecimal, with commas between
-- them. SQLSTATE PH001: what changed since then is not known any more, and workers are told of
-- a gap.
CREATE OR REPLACE FUNCTION pgherald.changes_of_tracked(since pg_snapshot) RETURNS TABLE (channel text, value text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    unheard boolean := coalesce(current_setting('pgherald.question', true), '') = 'unheard';
    oldest xid8 := pg_snapshot_xmin(since);
    newest xid8 := pg_snapshot_xmax(pg_current_snapshot());
    -- The same as numbers, for the journal.
    first bigint := pgherald.number_of(oldest);
    last bigint := pgherald.number_of(newest);
    forgotten text;
    tracked pgherald.tracked_table;
    keys text[];
BEGIN
    PERFORM pgherald.check_caller();
    SELECT why INTO forgotten FROM pgherald.retention WHERE forgotten_xid >= oldest AND forgotten_xid < newest;
    IF NOT FOUND THEN
        SELECT format('more was changed in a table of the channel %s than is told key by key', channel) INTO forgotten
        FROM pgherald.journal
        WHERE key IS NULL AND keys IS NULL AND changed_xid >= first AND changed_xid < last
          AND NOT pg_visible_in_snapshot(changed_xid::text::xid8, since);
    END IF;
    IF NOT FOUND AND NOT unheard AND to_regprocedure('pgherald.changes_of_own(pg_snapshot)') IS NULL THEN
        SELECT format('no table is tracked for the channel %s', name) INTO forgotten
        FROM pgherald.asked_channels()
        WHERE carries_changes AND NOT EXISTS (SELECT FROM pgherald.tracked AS t WHERE t.channel = name)
          AND NOT (name = 'data_sync_changes' AND to_regprocedure('pgherald.changes_of_users(pg_snapshot)') IS NOT NULL);
    END IF;
    IF FOUND THEN
        RAISE SQLSTATE 'PH001' USING MESSAGE = forgotten;
    END IF;

    -- What the table had when tracking began counts as changed by that.
    FOR tracked IN SELECT * FROM pgherald.tracked_table WHERE NOT unheard AND NOT pg_visible_in_snapshot(since_xid, changes_of_tracked.since)
                                                        AND EXISTS (SELECT FROM pg_class WHERE oid = tbl AND relkind IN ('r', 'p')) LOOP
        keys := pgherald.present_keys(tracked.id, tracked.tbl);
        IF keys IS NULL THEN
            RAISE SQLSTATE 'PH001' USING MESSAGE = format('%s is tracked only since %s', tracked.tbl, date_trunc('second', tracked.since));
        END IF;
        RETURN QUERY SELECT tracked.channel::text, unnest(keys);
    END LOOP;

    -- Of a folded key only the last change is known. If the snapshot does not see an earlier
    -- one, its xmin is not above that, nor above the last.
    RETURN QUERY
        SELECT channel::text, key::text FROM pgherald.folded WHERE changed_xid >= oldest AND changed_xid < newest
        UNION
        SELECT channel::text, unnest(coalesce(journal.keys, ARRAY[key]))::text FROM pgherald.journal
        WHERE changed_xid >= first AND changed_xid < last
          AND NOT pg_visible_in_snapshot(changed_xid::text::xid8, since) AND NOT (unheard AND notified);
    RETURN QUERY
        SELECT channel::text, payload::text FROM pgherald.message
        WHERE sent_xid >= oldest AND sent_xid < newest AND NOT pg_visible_in_snapshot(sent_xid, since)
          AND NOT (unheard AND notified)
        ORDER BY sent_xid, id;
END
$$;

-- Whether a row's transaction id is of the future: it comes from another cluster, through a dump.
-- The caller's own transaction id may also be above what its snapshot sees.
CREATE OR REPLACE FUNCTION pgherald.is_of_future(xid xid8) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid > coalesce(pg_current_xact_id_if_assigned(), '0')
$$;

-- In a condition over the journal, a function would run for each row.
CREATE OR REPLACE FUNCTION pgherald.is_misplaced() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    newest bigint := pgherald.number_of(pg_snapshot_xmax(pg_current_snapshot()));
BEGIN
    RETURN EXISTS (SELECT FROM pgherald.journal WHERE changed_xid >= newest AND pgherald.is_of_future(changed_xid::text::xid8))
        OR coalesce(pgherald.is_of_future(greatest(
               (SELECT changed_xid FROM pgherald.folded ORDER BY changed_xid DESC LIMIT 1),
               (SELECT sent_xid FROM pgherald.message ORDER BY sent_xid DESC LIMIT 1),
               (SELECT upto FROM pgherald.moment ORDER BY at DESC LIMIT 1),
               (SELECT since_xid FROM pgherald.tracked_table ORDER BY since_xid DESC LIMIT 1),
               (SELECT forgotten_xid FROM pgherald.retention))), false);
END
$$;

-- Folds, and forgets what is older than is retained. Returns how many changes it took from the
-- journal, and whether more wait. It writes nothing if there is nothing to do: the database may be
-- idle. Only one runs at a time; a second returns at once.
CREATE OR REPLACE FUNCTION pgherald.fold(OUT folded bigint, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    most constant integer := 50000; -- changes at a time: a second at most
    now_at timestamptz := clock_timestamp();
    known pgherald.moment := (SELECT m FROM pgherald.moment AS m WHERE at <= now_at ORDER BY at DESC LIMIT 1);
    kept pgherald.retention := (SELECT r FROM pgherald.retention AS r);
    foldable xid8 := (SELECT upto FROM pgherald.moment WHERE at <= now_at - interval '1 minute' ORDER BY at DESC LIMIT 1);
    old_message xid8 := (SELECT upto FROM pgherald.moment WHERE at <= now_at - kept.messages ORDER BY at DESC LIMIT 1);
    old_gone xid8 := (SELECT upto FROM pgherald.moment WHERE at <= now_at - kept.deleted ORDER BY at DESC LIMIT 1);
    done bigint := kept.folded_upto;
    upto bigint := coalesce(pgherald.number_of(foldable), 0);
    unsettled bigint := coalesce(pgherald.number_of(known.upto), 0);
    misplaced boolean := pgherald.is_misplaced();
    last xid8;
    emptied bigint;
BEGIN
    PERFORM pgherald.check_caller();
    folded := 0;
    more := false;
    IF NOT (EXISTS (SELECT FROM pgherald.journal WHERE changed_xid >= done AND changed_xid < upto)
            OR EXISTS (SELECT FROM pgherald.message WHERE sent_xid < old_message)
            OR EXISTS (SELECT FROM pgherald.folded WHERE gone AND changed_xid < old_gone)
            OR (coalesce(known.at <= now_at - interval '10 seconds', true)
                AND (EXISTS (SELECT FROM pgherald.journal WHERE changed_xid >= unsettled)
                     OR EXISTS (SELECT FROM pgherald.message WHERE sent_xid >= known.upto OR known.upto IS NULL)))
            OR misplaced)
       OR pg_is_in_recovery() THEN
        RETURN;
    END IF;
    PERFORM FROM pgherald.retention FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF misplaced THEN
        DELETE FROM pgherald.moment WHERE pgherald.is_of_future(upto);
        DELETE FROM pgherald.journal WHERE pgherald.is_of_future(changed_xid::text::xid8);
        DELETE FROM pgherald.folded WHERE pgherald.is_of_future(changed_xid);
        DELETE FROM pgherald.message WHERE pgherald.is_of_future(sent_xid);
        UPDATE pgherald.retention
            SET forgotten_xid = CASE WHEN pgherald.is_of_future(forgotten_xid) THEN NULL ELSE forgotten_xid END, folded_upto = 0;
        UPDATE pgherald.tracked_table SET since_xid = pg_current_xact_id() WHERE pgherald.is_of_future(since_xid);
        more := true;
        RETURN;
    END IF;
    INSERT INTO pgherald.moment SELECT now_at, pg_snapshot_xmin(pg_current_snapshot())
        WHERE coalesce(known.at <= now_at - interval '10 seconds', true) ON CONFLICT DO NOTHING;
    -- Some are of the future once the clock was set back.
    DELETE FROM pgherald.moment
        WHERE at < now_at - greatest(kept.messages, kept.deleted, interval '1 minute') - interval '1 minute' OR at > now_at;

    WITH taken AS (
        DELETE FROM pgherald.journal
        WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM (SELECT ctid, n, sum(n) OVER (ROWS UNBOUNDED PRECEDING) AS so_far
                              FROM (SELECT ctid, coalesce(cardinality(keys), 1) AS n FROM pgherald.journal
                                    WHERE changed_xid >= done AND changed_xid < upto LIMIT most) AS first) AS counted
            WHERE so_far - n < most))
        RETURNING *
    ), change AS (
        SELECT changed_xid, gone, channel, unnest(coalesce(keys, ARRAY[key])) AS key FROM taken
    ), latest AS (
        SELECT DISTINCT ON (channel, key) changed_xid::text::xid8 AS changed_xid, gone, channel, key FROM change
        WHERE key IS NOT NULL ORDER BY channel, key, change.changed_xid DESC, gone
    ), short AS (
        INSERT INTO pgherald.folded AS f SELECT * FROM latest WHERE octet_length(key) <= 1000
        ON CONFLICT (channel, key) WHERE octet_length(key) <= 1000
        DO UPDATE SET changed_xid = EXCLUDED.changed_xid, gone = EXCLUDED.gone WHERE f.changed_xid <= EXCLUDED.changed_xid
    ), long AS (
        INSERT INTO pgherald.folded AS f SELECT * FROM latest WHERE octet_length(key) > 1000
        ON CONFLICT (channel, octet_length(key), hashtextextended(key, 0), hashtextextended(key, 1)) WHERE octet_length(key) > 1000
        DO UPDATE SET changed_xid = EXCLUDED.changed_xid, gone = EXCLUDED.gone WHERE f.changed_xid <= EXCLUDED.changed_xid
    )
    SELECT count(*), max(changed_xid) FILTER (WHERE key IS NULL) INTO folded, emptied FROM change;
    more := folded >= most;
    UPDATE pgherald.retention
        SET folded_upto = CASE WHEN more THEN done ELSE upto END, forgotten_xid = greatest(forgotten_xid, emptied::text::xid8),
            why = CASE WHEN emptied IS NULL THEN why ELSE 'more was changed in a table than is told key by key' END;

    WITH forgotten AS (
        DELETE FROM pgherald.message
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM pgherald.message WHERE sent_xid < old_message ORDER BY sent_xid LIMIT most))
        RETURNING sent_xid)
    SELECT (SELECT sent_xid FROM forgotten ORDER BY sent_xid DESC LIMIT 1) INTO last;
    IF last IS NOT NULL THEN
        UPDATE pgherald.retention SET forgotten_xid = greatest(forgotten_xid, last),
               why = format('messages are kept for %s (pgherald.retain())', messages);
    END IF;
    WITH forgotten AS (
        DELETE FROM pgherald.folded
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM pgherald.folded WHERE gone AND changed_xid < old_gone
                                ORDER BY changed_xid LIMIT most))
        RETURNING changed_xid)
    SELECT (SELECT changed_xid FROM forgotten ORDER BY changed_xid DESC LIMIT 1) INTO last;
    IF last IS NOT NULL THEN
        UPDATE pgherald.retention SET forgotten_xid = greatest(forgotten_xid, last),
               why = format('keys of deleted rows are kept for %s (pgherald.retain())', deleted);
    END IF;
END
$$;

-- For the status: how many tables are tracked; what is wrong with them; a channel that is tracked
-- and that the relay that asks is not configured for; and for how many seconds the oldest row of
-- the journal could have been folded.
CREATE OR REPLACE FUNCTION pgherald.tracking(OUT tables bigint, OUT problem text, OUT unserved text, OUT fold_lag double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest xid8;
    settled timestamptz;
BEGIN
    PERFORM pgherald.check_caller();
    SELECT count(DISTINCT tbl), min(format('%s: %s', tbl, t.problem)) FILTER (WHERE t.problem IS NOT NULL),
           min(t.channel) FILTER (WHERE t.channel <> ALL (SELECT name FROM pgherald.asked_channels())
                                    AND EXISTS (SELECT FROM pgherald.asked_channels()))
        INTO tables, problem, unserved FROM (SELECT * FROM pgherald.tracked OFFSET 0) AS t; -- each problem is looked for once
    IF NOT EXISTS (SELECT FROM pgherald.retention) THEN
        problem := 'the tables of the schema pgherald are empty, as after a restore without data: run pgherald.sql again';
    END IF;
    -- The first rows speak for all. A function in a condition would run for each moment of a week.
    oldest := (SELECT min(changed_xid) FROM (SELECT changed_xid FROM pgherald.journal LIMIT 1000) AS first)::text::xid8;
    settled := (SELECT m.at FROM pgherald.moment AS m WHERE m.upto <= oldest ORDER BY m.at DESC LIMIT 1);
    fold_lag := coalesce((SELECT greatest(extract(epoch FROM clock_timestamp() - interval '1 minute' - m.at), 0)
                          FROM pgherald.moment AS m WHERE m.at > coalesce(settled, '-infinity') AND m.upto > oldest
                          ORDER BY m.at LIMIT 1), 0);
END
$$;

-- An operator's own changes_since(), and that of an older recovery.sql, become a part of the
-- one that is composed.
DO $$
DECLARE
    made_by text := obj_description(to_regprocedure('pgherald.changes_since(pg_snapshot)'), 'pg_proc');
BEGIN
    IF made_by LIKE 'pgherald 2: %' THEN
        ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO changes_of_users;
    ELSIF to_regprocedure('pgherald.changes_since(pg_snapshot)') IS NOT NULL AND made_by NOT LIKE 'pgherald %' IS NOT FALSE THEN
        ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO changes_of_own;
    END IF;
    PERFORM pgherald.compose_changes_since();
END
$$;

-- A function that runs as its owner must have the same owner as the tables that it writes.
DO $$
DECLARE
    owner name := (SELECT relowner::regrole FROM pg_class WHERE oid = 'pgherald.journal'::regclass);
    signature regprocedure;
BEGIN
    FOR signature IN SELECT oid::regprocedure FROM pg_proc
                     WHERE pronamespace = 'pgherald'::regnamespace AND prosecdef AND proowner <> owner::regrole
                       AND proname IN ('send', 'fold', 'tracking', 'changes_of_tracked')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', signature, owner);
    END LOOP;
    -- They check their caller. Default privileges may have said otherwise.
    GRANT EXECUTE ON FUNCTION pgherald.fold(), pgherald.tracking(), pgherald.changes_of_tracked(pg_snapshot) TO PUBLIC;
    -- An upgrade also mends the triggers.
    PERFORM pgherald.clear_dropped();
    PERFORM pgherald.make_triggers(id) FROM pgherald.tracked_table;
END
$$;

\if :sends
\else
    GRANT EXECUTE ON FUNCTION pgherald.send(text, text, boolean) TO PUBLIC;
\endif
\if :{?relay}
    GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO :"relay";
\endif
COMMIT;
DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.searched'), false);
END
$$;
