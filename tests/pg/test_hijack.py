"""A role may create functions, operators and types in a schema that others search. None of them
runs: not for the role that runs the migrations, not for writers of the table, not for the
relay.

The role plants overloads of everything that the SQL uses, in a schema that is in everybody's
search_path. Some have the types of the built-in functions, which counts if the schema comes
before pg_catalog. Others would match better. Each writes to the server's log, which no rollback
undoes, that it ran and as whom.
"""

import glob
import os
import re

import pytest

from harness.datasync import SQL, DataSync
from harness.relay import TOP
from harness.servers import Database, Postgres
from harness.subscriber import resumed, subscriber
from harness.worker import CHANNEL, NOTIFY, Ok

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
PATHS = {"before-pg_catalog": "evil, pg_catalog, public", "behind-it": '"$user", public, evil'}

PLANT = """
CREATE SCHEMA evil AUTHORIZATION stranger;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
SET ROLE stranger;
DO $plant$
DECLARE
    ones text[] := '{text,name,oid,regclass,regnamespace,bigint,integer,boolean,bytea,json,pg_lsn,xid8,pg_snapshot,timestamptz,uuid,text[],oid[]}';
    twos text[] := '{text,name,oid,regclass,bigint,integer,boolean,pg_lsn,xid8,bytea}';
    threes text[] := '{text,name,oid,bigint,boolean}';
    many text[] := '{"text,bigint,oid,numeric","text,bigint,oid,double precision","text,bigint,bigint,pg_lsn,text",
                     "text,bigint,bigint,pg_lsn,pg_snapshot","text,text,text,text,xid8,text,text,text,text","xid8,text,xid8,text",
                     "text,text,text,text","uuid,uuid,uuid","name,oid,text,text","text,regclass,text","text,text,xid8"}';
    f record;
    arguments text;
BEGIN
    FOR f IN SELECT proname, max(CASE WHEN t.typtype = 'p' THEN 'text' ELSE format_type(prorettype, NULL) END) AS result,
                    array_agg(DISTINCT pronargs) AS arities, bool_or(provariadic <> 0) AS variadic
             FROM pg_proc JOIN pg_type t ON t.oid = prorettype
             WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%(names)s) GROUP BY proname
    LOOP
        FOR arguments IN
            SELECT coalesce((SELECT string_agg(format_type(t, NULL), ',' ORDER BY i) FROM unnest(proargtypes) WITH ORDINALITY AS a (t, i)), '')
            FROM pg_proc p
            WHERE proname = f.proname AND pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f'
                  AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (proargtypes) AND t.typtype = 'p')
            UNION SELECT a FROM unnest(ones) a WHERE f.variadic OR 1 = ANY (f.arities)
            UNION SELECT a || ',' || b FROM unnest(twos) a, unnest(twos) b WHERE f.variadic OR 2 = ANY (f.arities)
            UNION SELECT a || ',' || b || ',' || c FROM unnest(threes) a, unnest(threes) b, unnest(threes) c
                  WHERE f.variadic OR 3 = ANY (f.arities)
            UNION SELECT a FROM unnest(many) a WHERE f.variadic OR cardinality(string_to_array(a, ',')) = ANY (f.arities)
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION evil.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS'
                               ' $$ BEGIN RAISE LOG %%L, current_user; RETURN NULL; END $$', f.proname, arguments, f.result,
                               'planted: ' || f.proname || '(' || arguments || ') ran as %%');
            EXCEPTION WHEN duplicate_function THEN
                NULL; -- the same types under other names
            END;
        END LOOP;
    END LOOP;
    FOR f IN SELECT op, l, r, CASE WHEN op = ANY ('{||,*,+,-}') THEN l ELSE 'boolean' END AS result
             FROM unnest('{=,<>,<,>,<=,>=,||,*,+,-}'::text[]) op,
                  unnest(ones || '{varchar,regprocedure,"\\"char\\"",numeric,double precision}') l,
                  unnest(ones || '{varchar,regprocedure,"\\"char\\"",numeric,double precision}') r
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%%I(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS'
                       ' $$ BEGIN RAISE LOG %%L, current_user; RETURN NULL; END $$', 'operator ' || f.op, f.l, f.r, f.result,
                       'planted: ' || f.op || '(' || f.l || ',' || f.r || ') ran as %%');
        EXECUTE format('CREATE OPERATOR evil.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = evil.%%I)', f.op, f.l, f.r, 'operator ' || f.op);
    END LOOP;
    FOREACH arguments IN ARRAY '{text,name,oid,regclass,regnamespace,regprocedure,pg_lsn,xid8,pg_snapshot,bytea,json,uuid}'::text[]
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%%I(pg_catalog.%%I) RETURNS boolean LANGUAGE plpgsql AS'
                       ' $$ BEGIN RAISE LOG %%L, current_user; RETURN true; END $$', 'type ' || arguments, arguments,
                       'planted: type ' || arguments || ' ran as %%');
        EXECUTE format('CREATE DOMAIN evil.%%I AS pg_catalog.%%I CHECK (evil.%%I(VALUE))', arguments, arguments, 'type ' || arguments);
    END LOOP;
END
$plant$;
"""


def read(path):
    with open(path) as file:
        return file.read()


def statements():
    """The SQL in the relay's sources: the literals of each macro or call that contains SQL."""
    for path in glob.glob(os.path.join(TOP, "relay", "**", "*.[ch]"), recursive=True):
        text = re.sub(r"/\*.*?\*/", "", read(path), flags=re.S).replace("\\\n", "\n")
        for group in re.findall(r'(?:"(?:[^"\\\n]|\\.)*"[\s\w]*)+', text):
            sql = " ".join(part.replace('\\"', '"') for part in re.findall(r'"((?:[^"\\\n]|\\.)*)"', group))
            if "pg_catalog." in sql or re.search(r"\bSELECT\b|\bpgherald\.\w+[ (].*\bWHERE\b", sql):
                yield os.path.basename(path), sql


def used():
    """The names that the migrations and the relay call."""
    texts = [re.sub(r"--.*", "", read(path)) for path in glob.glob(os.path.join(SQL, "*.sql"))]
    return sorted(set(re.findall(r"\b([a-z_][a-z0-9_]*)\(", " ".join(texts + [sql for _, sql in statements()]))))


@pytest.fixture(scope="module")
def planted(run, template):
    """A server with a database that contains the plants."""
    names = used()
    assert {"concat_ws", "pg_notify", "unnest", "count", "format", "to_json", "length", "set_config"} <= set(names)
    server = Postgres(run, template).start()
    try:
        server.sql("CREATE ROLE stranger")
        server.sql("CREATE DATABASE planted TEMPLATE template0")
        server.sql(PLANT, {"names": names}, database="planted")
        yield server
    finally:
        server.close()


@pytest.fixture
def make(run, planted, cleanup):
    """make(path): the tables in a database where everybody has this search_path. The test's
    own statements search nothing."""
    def make(path):
        name = f"db_{len(planted.sql('SELECT 1 FROM pg_database'))}"
        planted.sql(f"CREATE DATABASE {name} OWNER app TEMPLATE planted")
        data = DataSync(run, cleanup.add(Database(planted, name)))
        planted.sql(f"ALTER DATABASE {name} SET search_path = {PATHS[path]}")
        data.seen = len(planted.log())
        return data
    return make


def ran(data):
    """Which plants ran since the database was made."""
    return re.findall(r"LOG:  planted: (.*)", data.database.server.log()[data.seen:])


@pytest.mark.parametrize("path, statement, plant", [
    ("behind-it", "SELECT concat_ws('/', 1::bigint, 2::oid, 1.5::double precision)", "concat_ws(text,bigint,oid,double precision)"),
    ("behind-it", "SELECT format('x', 'public.records'::regclass)", "format(text,regclass)"),
    ("behind-it", "SELECT 1::oid = 'public'::regnamespace", "=(oid,regnamespace)"),
    ("behind-it", "SELECT to_json('x'::text)", "to_json(text)"),
    ("before-pg_catalog", "SELECT pg_notify('a', 'b')", "pg_notify(text,text)"),
    ("before-pg_catalog", "SELECT length('x'::varchar)", "length(text)"),
    ("before-pg_catalog", "SELECT 1::bigint::text", "type text"),
])
def test_the_plants_run_where_a_name_is_not_qualified(make, path, statement, plant):
    """Otherwise the other tests show nothing."""
    data = make(path)
    data.database.sql(statement)
    assert f"{plant} ran as app" in ran(data)


def write(data, *statements):
    """Write as an application does; its own statements search nothing."""
    for statement in statements:
        data.database.sql(statement)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("user", ["postgres", "app"])
def test_no_plant_runs_in_the_migrations_or_in_a_writers_triggers(make, path, user):
    data = make(path)
    data.migrate("recovery", user=user, own=1, relay="app")
    data.migrate("recovery", "notify", "recovery", "notify", user=user, relay="app")
    write(data, "INSERT INTO public.user_revisions VALUES ('alice', 1)", "UPDATE public.user_revisions SET revision = 2",
          "INSERT INTO public.user_revisions VALUES ('alice', 1) ON CONFLICT (user_id) DO UPDATE SET revision = 3",
          "BEGIN; SET LOCAL pgherald.client_id = 'phone'; UPDATE public.user_revisions SET user_id = 'bob'; COMMIT",
          "SELECT pgherald.note_run()", "SELECT channel, value FROM pgherald.changes_since('3:3:')",
          "CREATE FUNCTION public.all_at_once() RETURNS SETOF pg_catalog.record LANGUAGE sql AS"
          " 'SELECT pgherald.changes_since(''3:3:'')'", "SELECT public.all_at_once()")
    rows = data.database.sql("SELECT value FROM pgherald.changes_since('3:3:')", user=user)
    assert {value for value, in rows} == {"alice", "bob"}
    data.migrate("recovery_down", "notify_down", "recovery", "notify", "notify_down", "recovery_down", user=user)
    assert ran(data) == []


@pytest.mark.parametrize("path", PATHS)
def test_no_plant_runs_in_a_relays_life(make, start_relay, path):
    data = make(path)
    data.migrate("recovery", user="postgres", relay="app")
    relay, other = (start_relay(data.database, **FAST) for _ in range(2))
    assert relay.lines("WARNING") == []
    worker = subscriber(relay)
    worker.publish("single")
    asked = [worker.ask(NOTIFY, CHANNEL, f"batched{n}", None) for n in range(200)]
    assert {type(worker.answer(id)) for id in asked} == {Ok}
    worker.hears_all(["single", *(f"batched{n}" for n in range(200))])
    write(data, "INSERT INTO public.user_revisions VALUES ('reconciled', 1)")
    assert worker.hears("reconciled").flags == 0
    cursor = worker.cursor
    seen = len(worker.frames)
    # through another database, because this statement searches
    data.database.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgherald upstream'"
                             " AND datname = %s", (data.database.name,))
    write(data, "INSERT INTO public.user_revisions VALUES ('missed', 1)")
    worker.sees("live", seen)
    worker.hears("missed")
    seen = len(worker.frames)
    data.database.server.restart()
    worker.sees("live", seen)
    assert "missed" in resumed(relay, (other.connect().welcome.epoch, 1, cursor[2])).recovered
    write(data, "UPDATE public.user_revisions SET revision = 2")
    worker.wait_until(lambda: worker.pubkeys.count("reconciled") > 1, "what is reconciled after the restart")
    assert not worker.gaps
    assert ran(data) == []


# What needs no server

KEYWORDS = {"coalesce", "extract"}


def unqualified(sql):
    """The names that are looked up in the search_path."""
    sql = re.sub(r"'[^']*'", "''", sql).replace("%s", "''").replace(":=", "")  # what stands for SQL is in the list of its own
    sql = sql.replace("''::pg_catalog.", "").replace("OPERATOR(pg_catalog.", "OPERATOR(")
    found = [name for name in re.findall(r'(?<![\w.])([a-z_][a-z0-9_]*)\(', sql) if name not in KEYWORDS]
    found += re.findall(r"::(?!pg_catalog\.)\w*", sql)
    found += re.findall(r"[=<>|*+~!@#%^&/-]+", re.sub(r"OPERATOR\([^)]*\)", "", sql).replace("::", ""))
    return found + re.findall(r"\b(?:FROM|JOIN)\s+(?!pg_catalog\.|pgherald\.|ROWS)([a-z_]+)", sql)


def test_each_name_in_the_relays_statements_is_qualified():
    found = list(statements())
    assert {"canary.c", "changes_since.c", "publisher.c", "rights.c", "rights.h", "upstream.c", "upstream.h"} <= {file for file, _ in found}
    for file, sql in found:
        assert unqualified(sql) == [], f"{file}: {sql}"
    for sql in ("SELECT count(pg_notify(c, p))", "SELECT $1::text", "SELECT a = b", "SELECT 1 FROM pg_settings"):
        assert unqualified(sql), f"the test lets {sql} pass"
