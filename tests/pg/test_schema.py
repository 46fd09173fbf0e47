"""The schema pgherald: the server's runs, the relays' key, and functions of roles that a
relay may trust."""

import threading

import psycopg2
import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.subscriber import resumed, subscriber

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
LEVELS = ["read committed", "repeatable read", "serializable"]


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db)


@pytest.fixture
def stranger(own_pg, own_db):
    """A role that may do what any role may do in this database, and create schemas."""
    own_pg.sql(f"CREATE ROLE stranger LOGIN; GRANT CREATE ON DATABASE {own_db.name} TO stranger")
    return "stranger"


# Runs of the server

def begin(database, level="read committed", user="app"):
    """A connection in a transaction that has its snapshot. It fails if it must wait."""
    connection = database.server.connect(database.name, user)
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL " + level)
    connection.commit()
    cursor.execute("SET LOCAL statement_timeout = '10s'; SELECT 1")
    return connection, cursor


def note(cursor):
    cursor.execute("SELECT pgherald.note_run() - '0/0'")
    return cursor.fetchone()[0]


def noted(database):
    """How far the history contains the present run."""
    return database.sql("SELECT max(upto) - '0/0' FROM pgherald.server_run WHERE started ="
                        " (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint")[0][0]


@pytest.mark.parametrize("level", LEVELS)
def test_many_note_a_run_at_once(data, level):
    database = data.recoverable().database
    failures, returned, seen, stop = [], [], [], threading.Event()

    def call():
        try:
            connection, cursor = begin(database, level)
            for _ in range(100):
                returned.append(note(cursor))
                connection.commit()
            connection.close()
        except Exception as e:
            failures.append(e)

    def watch():
        while not stop.is_set():
            seen.append(noted(database) or 0)
    callers, watcher = [threading.Thread(target=call) for _ in range(6)], threading.Thread(target=watch)
    for thread in (watcher, *callers):
        thread.start()
    for thread in callers:
        thread.join()
    stop.set()
    watcher.join()
    assert not failures and len(returned) == 600
    assert noted(database) == max(returned)
    assert seen == sorted(seen), "it only grows"
    assert database.sql("SELECT count(*) < 20 FROM pgherald.server_run") == [(True,)], "a row for each that runs at once"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("prepares", [False, True], ids=["open", "prepared"])
def test_a_caller_that_keeps_its_transaction_open_blocks_nobody(data, stranger, level, prepares):
    server, database = data.database.server, data.database
    server.sql("ALTER SYSTEM SET max_prepared_transactions = 3")
    server.restart()
    data.recoverable()
    for _ in range(2):  # none has a row yet; all have
        others = [begin(database, level) for _ in range(2)]  # their snapshots are older
        holder, cursor = begin(database, level, stranger)
        note(cursor)
        if prepares:
            with pytest.raises(psycopg2.errors.FeatureNotSupported):
                cursor.execute("PREPARE TRANSACTION 'holder'")
        others.append(begin(database, level))
        for connection, cursor in others:
            lsn = note(cursor)
            connection.commit()
            assert noted(database) == lsn
            connection.close()
        holder.close()


def test_a_note_costs_one_transaction_id(data):
    """Two would make each canary look like activity, and an idle fleet write for ever."""
    connection, cursor = begin(data.recoverable().database)
    for _ in range(3):
        cursor.execute("SELECT pgherald.note_run(), pg_current_xact_id()::text::bigint")
        xid = cursor.fetchone()[1]
        connection.commit()
        cursor.execute("SELECT pg_current_snapshot()::text")
        assert cursor.fetchone() == (f"{xid + 1}:{xid + 1}:",)
        connection.commit()
    connection.close()


def test_runs_are_known_after_a_crash(data):
    database = data.recoverable().database
    kept = []
    for _ in range(3):
        connection, cursor = begin(database)
        cursor.execute("SELECT pg_logical_emit_message(true, 'test', '')")
        lsn = note(cursor)
        connection.commit()
        connection.close()
        kept.append(lsn)
        database.server.restart("immediate")
        runs = database.sql("SELECT max(upto) - '0/0' FROM pgherald.server_run GROUP BY started ORDER BY started")
        assert [upto for upto, in runs] == kept


# Rights

def denied(database, user, statement):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        database.sql(statement, user=user)


def test_nobody_but_the_owner_writes_the_tables_or_reads_the_key(data, stranger):
    database = data.database
    database.sql("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO stranger, PUBLIC")
    data.recoverable()
    for table in ("server_run", "former_user", "relay_key"):
        for statement in ("INSERT INTO pgherald.{} SELECT FROM pg_class", "DELETE FROM pgherald.{}", "TRUNCATE pgherald.{}",
                          "BEGIN; LOCK pgherald.{} IN SHARE MODE"):
            denied(database, stranger, statement.format(table))
    denied(database, stranger, "UPDATE pgherald.server_run SET upto = 'F/0'")
    for table in ("former_user", "relay_key"):
        denied(database, stranger, f"SELECT FROM pgherald.{table}")
    assert database.sql("SELECT count(*) FROM pgherald.server_run", user=stranger) == [(0,)]
    data.migrate("recovery", relay=stranger)
    data.migrate("recovery")
    assert database.sql("SELECT length(key) FROM pgherald.relay_key", user=stranger) == [(32,)]
    denied(database, stranger, "DELETE FROM pgherald.relay_key")


def test_there_is_one_key_and_it_stays(data):
    database, read = data.database, "SELECT key FROM pgherald.relay_key"
    data.recoverable()
    (key,), = database.sql(read)
    data.migrate("recovery", "notify", "recovery")
    assert database.sql(read) == [(key,)] and len(key) == 32
    with pytest.raises(psycopg2.IntegrityError):
        database.sql("INSERT INTO pgherald.relay_key VALUES ('x')")
    data.migrate("recovery_down", "recovery")
    (other,), = database.sql(read)
    assert bytes(other) != bytes(key)


def test_former_ids_are_told_to_who_may_read_the_present_ones(own_pg, data, stranger):
    database, ask = data.database, "SELECT value FROM pgherald.changes_since('3:3:') ORDER BY 1"
    own_pg.sql("CREATE ROLE reader; CREATE ROLE login LOGIN NOINHERIT IN ROLE reader; CREATE ROLE herald LOGIN")
    data.recoverable().write("old")
    since, = database.sql("SELECT pg_current_snapshot()::text")[0]
    database.sql("UPDATE user_revisions SET user_id = 'new'")
    database.sql("GRANT SELECT ON user_revisions TO reader, herald")
    ask = f"SELECT value FROM pgherald.changes_since('{since}') ORDER BY 1"
    assert database.sql(ask, user="herald") == database.sql(ask) == [("new",), ("old",)]
    assert database.sql("SET ROLE reader; " + ask, user="login") == [("new",), ("old",)]
    denied(database, stranger, ask)
    for user in (stranger, "login"):
        assert database.sql(f"SELECT pgherald.former_users_since('{since}')", user=user) == []
    assert database.sql(f"SET ROLE stranger; SELECT pgherald.former_users_since('{since}')", user="postgres") == []


def test_functions_can_be_called_where_new_ones_are_nobodys(data, stranger):
    data.database.sql("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    data.recoverable()
    data.database.sql("GRANT SELECT ON user_revisions TO stranger")
    assert data.database.sql("SELECT pgherald.note_run() IS NULL, (SELECT count(*) FROM pgherald.changes_since('3:3:'))",
                             user=stranger) == [(False, 0)]


def test_a_table_owners_triggers_run_as_nobody_else(data):
    """The owner of the table made what the superuser's migration finds, and put a trigger on
    it."""
    data.database.sql("CREATE SCHEMA pgherald; CREATE TABLE pgherald.server_run (started bigint, backend integer, upto pg_lsn,"
                      " PRIMARY KEY (started, backend));"
                      "CREATE TABLE pgherald.former_user (user_id text, changed_xid xid8);"
                      "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS"
                      " $$ BEGIN RAISE LOG 'trap ran as %', current_user; RETURN NEW; END $$;"
                      "CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON pgherald.server_run FOR EACH ROW EXECUTE FUNCTION trap();"
                      "CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON pgherald.former_user FOR EACH ROW EXECUTE FUNCTION trap()")
    data.migrate("recovery", user="postgres")
    data.write("old")
    data.database.sql("SELECT pgherald.note_run(); UPDATE user_revisions SET user_id = 'new'", user="postgres")
    log = data.database.server.log()
    assert log.count("trap ran as app") == 2 and "trap ran as postgres" not in log


# A schema of one's own

OWN = "SELECT 'data_sync_changes'::text, 'mine'::text"


def test_a_schema_of_ones_own_has_the_general_part_alone(own_db, run, start_relay, own_bouncer):
    data = DataSync(run, own_db)
    own_db.sql("DROP TABLE user_revisions; CREATE SCHEMA pgherald; CREATE FUNCTION pgherald.changes_since(since pg_snapshot)"
               f" RETURNS TABLE (channel text, value text) LANGUAGE sql AS $$ {OWN} $$")
    for _ in range(2):
        data.migrate("recovery", own=1, relay="app")
    names = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace" \
            " UNION SELECT relname FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace AND relkind = 'r' ORDER BY 1"
    assert own_db.sql(names) == [("changes_since",), ("note_run",), ("relay_key",), ("server_run",)]
    relay = start_relay(own_db, own_bouncer, PGHERALD_RECONCILE="no", **FAST)
    assert relay.lines("WARNING") == []
    worker = subscriber(relay)
    worker.passes(data, notify="before")
    seen = len(worker.frames)
    own_db.server.restart()
    worker.sees("live", seen)
    assert "mine" in worker.recovered and not worker.gaps
    data.migrate("recovery_down", own=1)
    assert own_db.sql(names) == [("changes_since",)]
    data.migrate("recovery_down")
    assert own_db.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'pgherald'") == []


# Strangers

RAN = "RAISE LOG 'the stranger ran as %', current_user"
TRAPS = f"""
CREATE SCHEMA pgherald; GRANT USAGE ON SCHEMA pgherald TO PUBLIC;
CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
    LANGUAGE plpgsql AS $$ BEGIN {RAN}; END $$;
CREATE FUNCTION pgherald.note_run() RETURNS pg_lsn
    LANGUAGE plpgsql AS $$ BEGIN {RAN}; RETURN pg_current_wal_insert_lsn(); END $$;
CREATE FUNCTION pgherald.key() RETURNS bytea
    LANGUAGE plpgsql AS $$ BEGIN {RAN}; RETURN sha256('x'); END $$;
CREATE VIEW pgherald.relay_key AS SELECT pgherald.key() AS key; GRANT SELECT ON pgherald.relay_key TO PUBLIC;
CREATE VIEW pgherald.server_run AS SELECT length(pgherald.key())::bigint AS started, 'F/0'::pg_lsn AS upto;
GRANT SELECT ON pgherald.server_run TO PUBLIC;
"""


def ran(data):
    return [line for line in data.database.server.log().splitlines() if "LOG:  the stranger ran" in line]


@pytest.mark.parametrize("user", ["app", "postgres"])
@pytest.mark.parametrize("what", ["the schema pgherald", "the function pgherald.changes_since", "the relation pgherald.relay_key"])
def test_the_migrations_refuse_what_a_stranger_has_made(data, stranger, user, what):
    database = data.database
    database.sql(TRAPS, user=stranger)
    kind, name = what.split()[1:]
    if kind != "schema":
        database.sql("ALTER SCHEMA pgherald OWNER TO app", user="postgres")
    if kind == "relation":
        database.sql("ALTER FUNCTION pgherald.changes_since OWNER TO app; ALTER FUNCTION pgherald.note_run OWNER TO app;"
                     "ALTER FUNCTION pgherald.key OWNER TO app; ALTER VIEW pgherald.server_run OWNER TO app", user="postgres")
    for migration, variables in (("recovery", {}), ("recovery", {"own": 1}), ("notify", {})):
        if (migration, kind) == ("notify", "relation"):  # it uses none
            continue
        with pytest.raises(AssertionError) as refused:
            data.migrate(migration, user=user, **variables)
        assert f"the {kind} {name if kind != 'function' else 'pgherald.'}" in str(refused.value)
        assert "belongs to stranger" in str(refused.value)
    assert database.sql("SELECT 1 FROM pg_trigger WHERE tgrelid = 'user_revisions'::regclass") == []
    assert not ran(data)


def test_a_relay_goes_without_what_a_stranger_has_made(data, stranger, start_relay, own_bouncer):
    data.database.sql(TRAPS, user=stranger)
    relay = start_relay(data.database, own_bouncer, **FAST)
    warnings = relay.lines("WARNING")
    for name in ("changes_since()", "note_run()", "relay_key"):
        assert [w for w in warnings if w.startswith(f"pgherald.{name} is not used") and "belongs to stranger" in w], warnings
    assert len(warnings) == 3
    worker = subscriber(relay)
    data.database.terminate("pgherald upstream")
    worker.sees("live")
    assert worker.gaps == ["upstream"]
    worker.passes(data, notify="after")
    assert resumed(relay, ("gone", 1, worker.checkpoints()[-1])).gaps == ["restart"]
    assert not ran(data)


def test_a_relay_starts_where_it_may_not_look_into_the_schema(data, stranger, start_relay, own_bouncer):
    data.database.sql(TRAPS + "REVOKE USAGE ON SCHEMA pgherald FROM PUBLIC", user=stranger)
    relay = start_relay(data.database, own_bouncer, **FAST)
    assert [w for w in relay.lines("WARNING") if "there is no function pgherald.changes_since" in w]


def test_what_a_stranger_makes_later_is_not_used(data, stranger, start_relay, own_bouncer):
    """The name is free once the migration is taken down. The relay finds another role's
    functions in place of its own."""
    relay = start_relay(data.recoverable().database, own_bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    cursor = worker.cursor
    # in the order in which the relay's question locks, which would be a deadlock otherwise
    data.database.sql("LOCK TABLE user_revisions IN ACCESS EXCLUSIVE MODE; DROP SCHEMA pgherald CASCADE; SET ROLE stranger;"
                      + TRAPS, user="postgres")
    wait_until(lambda: [w for w in relay.lines("WARNING") if "belongs to stranger" in w], "that reconciliation refuses it")
    data.notify("heard")
    worker.hears("heard")
    assert resumed(relay, ("gone", 1, cursor[2])).gaps == ["restart"]
    seen = len(worker.frames)
    data.database.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert "upstream" in worker.gaps
    assert not ran(data)


OWNERS = {
    "superuser": "",
    "database": "",
    "member": "CREATE ROLE keeper LOGIN IN ROLE app",
    "relays-own": "CREATE ROLE keeper LOGIN; GRANT herald TO keeper",
    "tables": "CREATE ROLE keeper LOGIN",
    "one-table-of-two": "CREATE ROLE keeper LOGIN",
}


@pytest.mark.parametrize("who", OWNERS)
def test_whose_functions_a_relay_uses(own_pg, data, make_relay, who):
    """keeper owns the table and what the migration made, but not the database. The relay's
    role is neither."""
    database = data.database
    own_pg.sql("CREATE ROLE herald LOGIN; " + OWNERS[who])
    installer = {"superuser": "postgres", "database": "app"}.get(who, "keeper")
    if installer == "keeper":
        database.sql(f"GRANT CREATE ON DATABASE {database.name} TO keeper; GRANT CREATE ON SCHEMA public TO keeper;"
                     "ALTER TABLE user_revisions OWNER TO keeper", user="postgres")
    data.migrate("recovery", user=installer, relay="herald")
    if who == "one-table-of-two":
        database.sql("GRANT SELECT (id) ON records TO herald")
    url = own_pg.url(database.name, "herald")
    relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start()
    warnings = relay.lines("WARNING")
    if who == "one-table-of-two":  # keeper would read records with the relay's rights
        assert len(warnings) == 3 and all("belongs to keeper" in w for w in warnings), warnings
    else:
        assert warnings == []
        worker = subscriber(relay)
        database.sql("INSERT INTO user_revisions VALUES ('alice', 1)", user="postgres")
        worker.hears("alice")
