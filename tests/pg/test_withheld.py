"""A server that withholds some of its functions from the relay's role, as managed services do: the
relay serves, says which guarantee is weaker and what restores it, and tells a gap where it cannot
compare."""

import re

import pytest

from harness.datasync import DataSync
from harness.ops import objects
from harness.procs import wait_until
from harness.subscriber import resumed, subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}

MESSAGE = "pg_logical_emit_message(boolean, text, text)"
# What is weaker without it, where recovery.sql is installed, and where the operator wrote the function.
WEAKER = {
    "pg_control_system()": ("a restart or failover",) * 2,
    "pg_postmaster_start_time()": ("missed changes are announced as gaps",) * 2,
    "pg_current_wal_insert_lsn()": ("note_run() alone", "a restart or failover"),
    "pg_current_snapshot()": ("missed changes are announced as gaps",) * 2,
    "pg_current_xact_id()": ("idle database",) * 2,
    MESSAGE: ("note_run() alone", "missed changes are announced as gaps"),
}
# The relay has another way, or does not need it.
HARMLESS = ["pg_is_in_recovery()", "pg_backend_pid()", "pg_walfile_name(pg_lsn)", "pg_current_wal_lsn()",
            "pg_last_wal_receive_lsn()", "pg_last_wal_replay_lsn()", "pg_control_checkpoint()"]


def signature(database, function):
    """PostgreSQL 17 gave one of them a fourth argument."""
    if function == MESSAGE and database.server.version() >= 170000:
        return function.replace(")", ", boolean)")
    return function


def withhold(database, *functions):
    """From all but the application."""
    for function in functions:
        function = "pg_catalog." + signature(database, function)
        database.sql(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {function} TO app",
                     user="postgres")


def deafen(database, worker):
    """The LISTEN connection is lost, and comes back."""
    seen = len(worker.frames)
    database.terminate("pgherald upstream")
    worker.sees("live", seen)


def status(relay):
    return objects(relay.ops("status json"))[0]


def missing(relay):
    return status(relay)["upstream"]["missing_functions"]


@pytest.fixture
def data(run, db):
    if not db.sql("SELECT 1 FROM pg_roles WHERE rolname = 'modest'"):
        db.sql("CREATE ROLE modest LOGIN", user="postgres")
    return DataSync(run, db)


@pytest.fixture
def modest_relay(data, make_relay):
    """Starts relays of a role that owns nothing."""
    url = data.database.server.url(data.database.name, "modest")
    return lambda **more: make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **{**FAST, **more}).start()


@pytest.fixture
def recoverable(data):
    data.migrate("recovery", relay="modest")
    return data


@pytest.fixture(params=["recovery.sql", "own"])
def installed(request, data):
    """Recovery, by recovery.sql, or by a function of the operator's own."""
    if request.param == "recovery.sql":
        data.migrate("recovery", relay="modest")
    else:
        data.function("BEGIN RETURN QUERY SELECT 'data_sync_changes'::text, user_revisions.user_id::text FROM user_revisions; END")
        data.database.sql("GRANT USAGE ON SCHEMA pgherald TO modest; GRANT SELECT ON user_revisions TO modest")
    return data


@pytest.mark.parametrize("function", WEAKER)
def test_it_serves_and_says_what_is_weaker(modest_relay, db, installed, request, function):
    withhold(db, function)
    relay = modest_relay()
    worker = subscriber(relay)
    worker.publish("published")
    worker.hears("published")
    installed.change("notified")
    worker.hears("notified")
    name = function.partition("(")[0]
    weaker = WEAKER[function]["own" in request.node.callspec.params["installed"]]
    said = [line for line in relay.lines("WARNING") if f" {name}()" in line]
    assert len(said) == 1 and weaker in said[0], relay.log()
    assert missing(relay) == name
    assert "pgherald_functions_missing 1" in relay.ops("metrics")

    # What it says to do restores the guarantee, without a restart.
    grant = re.search(r"GRANT EXECUTE ON FUNCTION .*", said[0])[0]
    db.sql(grant, user="postgres")
    wait_until(lambda: installed.change("again") or missing(relay) == "none", "the right is seen again")
    deafen(db, worker)
    installed.change("then")
    worker.hears("then")


@pytest.mark.parametrize("function", WEAKER)
def test_nothing_is_lost_without_it(modest_relay, db, installed, function):
    """What is committed while the LISTEN connection is away is recovered, or there is a gap."""
    withhold(db, function)
    worker = subscriber(modest_relay())
    installed.change("first")
    worker.hears("first")
    installed.write("missed")
    deafen(db, worker)
    assert "missed" in worker.pubkeys or worker.gaps, worker.tail()
    cursor = worker.cursor
    installed.write("missed later")
    late = resumed(modest_relay(), cursor)
    assert "missed later" in late.pubkeys or late.gaps, late.tail()


@pytest.mark.parametrize("function", HARMLESS)
def test_nothing_is_weaker_without_it(modest_relay, db, recoverable, function):
    data = recoverable
    withhold(db, function)
    relay = modest_relay()
    worker = subscriber(relay)
    worker.passes(data)
    data.write("missed")
    deafen(db, worker)
    worker.hears("missed")
    assert not worker.gaps and not [line for line in relay.lines("WARNING") if "may not call" in line]
    assert status(relay)["upstream"]["backend_pid"] == db.backends("pgherald upstream")[0]


def test_without_any_of_them(modest_relay, db, recoverable):
    data = recoverable
    withhold(db, *WEAKER, *HARMLESS)
    relay = modest_relay()
    worker = subscriber(relay)
    worker.publish("published")
    worker.hears("published")
    deafen(db, worker)
    assert worker.gaps
    data.change("after")
    worker.hears("after")


def test_a_restart_is_a_gap_where_clusters_cannot_be_told_apart(start_relay, own_db, run):
    data = DataSync(run, own_db).recoverable()
    own_db.sql("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC", user="postgres")
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    data.write("missed")
    deafen(own_db, worker)
    worker.hears("missed")
    assert not worker.gaps, "within one run of the server nothing is weaker"
    worker.passes(data)
    seen = len(worker.frames)
    own_db.server.restart()
    worker.sees("live", seen)
    assert worker.gaps == ["upstream"]
    assert status(relay)["checkpoint"]["survives_restarts"] is False


def test_it_is_withdrawn_while_the_relay_runs(modest_relay, db, recoverable):
    """The next canary is refused; the relay asks what it may, and goes on with the rest."""
    data = recoverable
    relay = modest_relay()
    worker = subscriber(relay)
    worker.passes(data)
    withhold(db, "pg_control_system()", "pg_current_wal_insert_lsn()")
    data.change("heard")
    worker.hears("heard")
    worker.passes(data)
    wait_until(lambda: "may not call pg_control_system()" in relay.log(), "the WARNING")
    data.write("silent")
    worker.hears("silent")
    assert not worker.gaps


def test_a_role_that_publishes_and_one_that_listens(db, recoverable, make_relay):
    """Each is asked what it may; the GRANT names who lacks it."""
    data = recoverable
    withhold(db, "pg_control_system()")
    relay = make_relay(DATABASE_URL=db.server.url(db.name, "modest"), DATABASE_DIRECT_URL=db.direct_url, **FAST).start()
    assert [line for line in relay.lines("WARNING") if line.endswith("pg_control_system() TO modest")], relay.log()
    worker = subscriber(relay)
    worker.publish("u")
    worker.hears("u")
    data.write("missed")
    deafen(db, worker)
    worker.hears("missed")
    assert not worker.gaps


def test_a_role_that_only_reads(recoverable, db, modest_relay):
    """NOTIFY is allowed there, and noting the run is not."""
    db.sql("ALTER ROLE modest SET default_transaction_read_only = on", user="postgres")
    try:
        relay = modest_relay()
        worker = subscriber(relay)
        worker.publish("published")
        worker.hears("published")
        said, = [line for line in relay.lines("WARNING") if "note_run()" in line]
        assert "read-only transaction" in said
        recoverable.write("missed")
        deafen(db, worker)
        worker.hears("missed")
        assert not worker.gaps
    finally:
        db.sql("ALTER ROLE modest RESET default_transaction_read_only", user="postgres")


def loses_the_right(data):
    data.database.sql("REVOKE SELECT ON user_revisions FROM app", user="postgres")


def loses_the_table(data):
    data.database.sql("ALTER TABLE user_revisions RENAME TO elsewhere")


def loses_the_function(data):
    data.database.sql("ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO elsewhere")


def loses_the_schema(data):
    data.database.sql("REVOKE ALL ON SCHEMA pgherald FROM PUBLIC, app", user="postgres")


def loses_sight(data):
    data.database.sql("ALTER TABLE user_revisions OWNER TO postgres; GRANT ALL ON user_revisions TO app;"
                      "ALTER TABLE user_revisions ENABLE ROW LEVEL SECURITY;"
                      "CREATE POLICY some_rows ON user_revisions USING (revision < 0)", user="postgres")


MENDED = {
    loses_the_right: "GRANT SELECT ON user_revisions TO app",
    loses_the_table: "ALTER TABLE elsewhere RENAME TO user_revisions",
    loses_the_function: "ALTER FUNCTION pgherald.elsewhere(pg_snapshot) RENAME TO changes_since",
    loses_the_schema: "GRANT ALL ON SCHEMA pgherald TO PUBLIC, app",
    loses_sight: "CREATE POLICY all_rows ON user_revisions TO app USING (true);"
                 "CREATE POLICY no_hiding ON user_revisions AS RESTRICTIVE WITH CHECK (true)",
}


@pytest.mark.parametrize("lose", MENDED)
def test_recovery_that_cannot_work_is_a_gap_and_comes_back(start_relay, db, data, lose):
    data.recoverable()
    if lose is loses_the_right:
        data.database.sql("ALTER TABLE user_revisions OWNER TO postgres; GRANT ALL ON user_revisions TO app", user="postgres")
    if lose is loses_the_schema:
        data.database.sql("ALTER SCHEMA pgherald OWNER TO postgres", user="postgres")
    relay = start_relay(db, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    lose(data)
    deafen(db, worker)
    assert worker.gaps, relay.log()
    seen = len(worker.frames)
    db.sql(MENDED[lose], user="postgres")
    data.write("silent")
    worker.hears("silent")
    assert Upstream in map(type, worker.frames) and len(worker.frames) > seen


HIDING = {
    "restricted": "CREATE POLICY all_rows ON user_revisions TO PUBLIC USING (true);"
                  "CREATE POLICY not_these ON user_revisions AS RESTRICTIVE USING (revision > 1)",
    "others": "CREATE POLICY all_rows ON user_revisions TO postgres USING (true)",
    "writing": "CREATE POLICY to_write ON user_revisions FOR INSERT WITH CHECK (true)",
}


@pytest.mark.parametrize("policies", HIDING)
def test_rows_that_the_role_may_not_see_are_told_at_start(start_relay, db, data, policies):
    """Recovery would find nothing, and say so."""
    data.recoverable()
    loses_sight(data)
    db.sql("DROP POLICY some_rows ON user_revisions;" + HIDING[policies], user="postgres")
    relay = start_relay(db, **FAST)
    said = 'row-level security of public.user_revisions may hide rows from role "app"'
    wait_until(lambda: [line for line in relay.lines("WARNING") if "recovery does not work" in line and said in line], "a warning")


# As Aurora does, which is PostgreSQL in part.
UNSUPPORTED = {
    "pg_current_wal_insert_lsn": ("pg_lsn", "55000", "wal_level must be set to 'logical'"),
    "pg_postmaster_start_time": ("timestamptz", "0A000", "Function pg_postmaster_start_time() is currently not supported"),
}


@pytest.mark.parametrize("function", UNSUPPORTED)
def test_a_function_that_may_be_called_and_fails(modest_relay, db, installed, function):
    returns, code, message = UNSUPPORTED[function]
    db.sql(f"""SET allow_system_table_mods = on;
        ALTER FUNCTION pg_catalog.{function}() RENAME TO was_{function};
        CREATE FUNCTION pg_catalog.{function}() RETURNS {returns} LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION USING MESSAGE = $m${message}$m$, ERRCODE = '{code}'; END $$""", user="postgres")
    relay = modest_relay()
    said = [line for line in relay.lines("WARNING") if f"this server does not support {function}(), so " in line]
    assert len(said) == 1, relay.log()
    assert missing(relay) == function
    worker = subscriber(relay)
    worker.publish("published")
    worker.hears("published")
    installed.write("missed")
    deafen(db, worker)
    assert "missed" in worker.pubkeys or worker.gaps, worker.tail()
    assert missing(relay) == function and len(relay.lines("WARNING")) < 10


def test_recovery_that_cannot_connect_is_a_gap(modest_relay, db, recoverable):
    """While the LISTEN connection stays, its role may not connect any more."""
    relay = modest_relay(PGHERALD_RECOVERY_TIMEOUT="1", PGHERALD_RECONCILE="no")
    worker = subscriber(relay)
    worker.passes(recoverable, notify="first")
    cursor = ("another epoch", 1, worker.cursor[2])
    db.sql(f"REVOKE CONNECT ON DATABASE {db.name} FROM PUBLIC", user="postgres")
    late = resumed(relay, cursor)
    assert late.gaps == ["recovery"], relay.log()
    db.sql(f"GRANT CONNECT ON DATABASE {db.name} TO PUBLIC", user="postgres")
    assert not resumed(relay, cursor).gaps
