"""What was committed while the relay did not hear PostgreSQL is recovered, through
pgherald.changes_since, or workers are told of a gap."""

import signal
import threading
import time

import psycopg2
import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.servers import Bouncer
from harness.subscriber import grew_by_at_most, resumed, subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


@pytest.fixture
def own_data(run, own_db):
    return DataSync(run, own_db).recoverable()


class Away:
    """The relay's LISTEN connection is lost, and does not come back before the end, because
    its role may not log in."""

    def __init__(self, database):
        self._db = database
        server = database.server
        server.sql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                   " AND application_name = 'pgherald upstream'", (database.name,))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._db.server.sql(f"ALTER DATABASE {self._db.name} ALLOW_CONNECTIONS true")


def order_of(worker, after):
    """The kinds of frames that came after the first `after`, changes with their flags."""
    return [(type(f).__name__, getattr(f, "state", getattr(f, "flags", None))) for f in worker.frames[after:]]


@pytest.mark.versions
def test_what_was_committed_while_away_is_recovered(start_relay, db, data, bouncer):
    """Transactions of all kinds: begun and committed while it was away; begun before;
    committed after."""
    relay = start_relay(db, bouncer, **FAST)
    everyone, some = subscriber(relay), subscriber(relay, ["during", "open-before", "open-over"])
    for worker in (everyone, some):
        worker.passes(data)
    before, over, never = data.begin("open-before"), data.begin("open-over"), data.begin("never")
    data.change("before")
    everyone.hears("before")
    everyone.passes(data)
    connection = db.server.connect(db.name, "app")
    seen = [len(everyone.frames), len(some.frames)]
    with Away(db):
        everyone.sees("down", seen[0])
        cursor = connection.cursor()
        cursor.execute("INSERT INTO user_revisions VALUES ('during', 1)")
        cursor.execute("NOTIFY data_sync_changes, '{\"p\":\"during\"}'")
        before.commit()
        never.close()
    everyone.sees("live", seen[0])
    over.commit()
    everyone.hears("open-over")  # by reconciliation, because it is not notified
    some.hears("open-over")
    assert set(everyone.recovered) >= {"during", "open-before"} and "never" not in everyone.pubkeys
    assert set(some.recovered) == {"during", "open-before"}
    for worker, position in zip((everyone, some), seen):
        assert not worker.gaps
        frames = order_of(worker, position)
        live = frames.index(("Upstream", "live"))
        # down, then all that was recovered, in the backlog, then the checkpoint, then live
        assert frames.index(("Upstream", "down")) < frames.index(("Change", 1)) < live
        assert ("Checkpoint", None) in frames[frames.index(("Change", 1)):live]
        assert all(c.seq for c in worker.changes), "for all workers: in the backlog, with seq"
    connection.close()
    # what was recovered can be replayed
    late = resumed(relay, (everyone.epoch, everyone.frames[0].seq, None))
    assert set(late.recovered) >= {"during", "open-before"}


def test_many_losses_under_load_with_writers_that_hold_on(start_relay, own_db, own_bouncer, own_data):
    """A third of the writers keep their transaction open during the losses. Nothing is lost,
    and no worker is told of a gap."""
    relay = start_relay(own_db, own_bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(own_data)
    stop = threading.Event()
    committed = []

    def write(number):
        connection = own_db.server.connect(own_db.name, "app")
        connection.autocommit = False
        cursor = connection.cursor()
        n = 0
        while not stop.is_set():
            user = f"w{number}-{n}"
            cursor.execute("INSERT INTO user_revisions VALUES (%s, 1)", (user,))
            if n % 3 == 0:
                stop.wait(0.02 * (n % 20))
            connection.commit()
            cursor.execute("SELECT pg_notify('data_sync_changes', %s)", ('{"p":"%s"}' % user,))
            connection.commit()
            committed.append(user)
            n += 1
            stop.wait(0.003)
        connection.close()
    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):  # each attempt waits twice as long as the last
            own_db.terminate("pgherald upstream")
            seen = len(worker.frames)
            worker.sees("live", seen)
            worker.pump(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    worker.hears_all(committed)
    assert worker.recovered and not worker.gaps


def test_another_relays_canary_is_not_ours(run, own_pg, own_db, own_data, start_relay, cleanup):
    """While this relay listens again and cannot prove it, it hears the checkpoints of a
    relay that missed nothing. They say nothing of what this one missed."""
    bouncer = cleanup.add(Bouncer(run, own_pg)).start()
    relay = start_relay(own_db, bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(own_data)
    upstream, = own_db.backends("pgherald upstream")
    other = start_relay(own_db, **FAST)
    calm = subscriber(other)
    # until each accepts the other's claims: a new relay answers only for what came after its start
    while not set(calm.checkpoints()[1:]) & set(worker.checkpoints()):
        calm.passes(own_data)
        worker.passes(own_data)
    # frozen and not stopped: if a canary could not be committed, it would go on without proof, before it hears the other
    bouncer.process.send_signal(signal.SIGSTOP)
    own_db.sql("SELECT pg_terminate_backend(%s)", (upstream,), user="postgres")
    worker.sees("down")
    own_data.write("missed")
    own_data.notify("missed")
    wait_until(lambda: "listening" in relay.ops("upstream"), "the relay listens again")
    calm.passes(own_data)
    calm.passes(own_data)
    assert "listening" in relay.ops("upstream"), "it went on without proof; else this test shows nothing"
    bouncer.process.send_signal(signal.SIGCONT)
    worker.sees("live")
    worker.hears("missed")
    assert not worker.gaps


def test_without_the_function_it_is_a_gap_and_a_warning_at_start_says_so(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **FAST)
    warning, = [line for line in relay.lines("WARNING") if "changes_since" in line]
    assert "recovery.sql" in warning
    worker = subscriber(relay)
    db.terminate("pgherald upstream")
    worker.sees("live")
    assert worker.gaps == ["upstream"]
    frames = [type(f).__name__ for f in worker.frames]
    assert frames.index("Gap") < len(frames) - frames[::-1].index("Upstream") - 1, "told before it is live"
    data.notify("alice")
    worker.hears("alice")


def test_the_function_is_found_when_it_is_installed_later(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **FAST)
    worker = subscriber(relay)
    data.recoverable()
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("live", seen)
    data.change("alice")
    worker.hears("alice")
    worker.passes(data)
    seen, gaps = len(worker.frames), len(worker.gaps)
    with Away(db):
        worker.sees("down", seen)
    worker.sees("live", seen)
    assert len(worker.gaps) == gaps
    # and when it is taken away again, that is a gap, not an error without end
    data.migrate("recovery_down")
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert len(worker.gaps) == gaps + 1


BROKEN = {
    "raises": ("plpgsql", "BEGIN RAISE 'broken on purpose'; END", "TABLE (channel text, value text)"),
    "raises-late": ("plpgsql", "BEGIN RETURN QUERY SELECT 'data_sync_changes', 'one'; RAISE 'broken on purpose'; END",
                    "TABLE (channel text, value text)"),
    "wrong-types": ("sql", "SELECT 1, now()", "TABLE (channel int, value timestamptz)"),
    "bytes": ("sql", "SELECT 'data_sync_changes', 'u'::bytea", "TABLE (channel text, value bytea)"),
    "numbers": ("sql", "SELECT 'data_sync_changes', 1", "TABLE (channel text, value int)"),
    "one-column": ("sql", "SELECT 'data_sync_changes'::text", "SETOF text"),
    "other-names": ("sql", "SELECT 'data_sync_changes'::text, 'x'::text", "TABLE (a text, b text)"),
    "null-channel": ("sql", "SELECT NULL::text, 'x'::text", "TABLE (channel text, value text)"),
    "hangs": ("plpgsql", "BEGIN PERFORM pg_sleep(1000); END", "TABLE (channel text, value text)"),
    "hangs-late": ("sql", "SELECT 'data_sync_changes'::text, i::text FROM generate_series(1, 5000) i UNION ALL"
                   " SELECT 'x', 'y' FROM pg_sleep(1000)", "TABLE (channel text, value text)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_function_that_is_wrong_is_a_gap_and_an_error_not_a_stall(start_relay, db, bouncer, run, kind):
    data = DataSync(run, db)
    language, body, returns = BROKEN[kind]
    data.function(body, language, returns)
    relay = start_relay(db, bouncer, PGHERALD_RECOVERY_TIMEOUT="1", PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    worker.passes(data, notify="before")
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert worker.gaps == ["recovery"]
    errors = relay.lines("ERROR")
    assert len(errors) == 1 and "changes_since" in errors[0], errors
    data.notify("live")
    assert worker.hears("live").flags == 0
    # a worker that resumes through the function is told too
    again = resumed(relay, ("gone", 1, worker.checkpoints()[-1]))
    assert again.gaps == ["recovery"]
    data.notify("live-2")
    again.hears("live-2")
    # a backend whose function hangs does not go on for ever
    wait_until(lambda: not db.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgherald recovery' AND query LIKE"
                                  " '%%changes_since%%' AND state = 'active' AND datname = current_database()",
                                  user="postgres"), "the end of its backends")


@pytest.mark.versions
def test_a_recovery_that_is_given_up_is_cancelled(start_relay, own_pg, own_db, own_bouncer, own_data):
    """PostgreSQL 13 never finds out by itself that its client has gone away for a function that hangs. So the
    relay says so, whatever the version."""
    own_data.function("BEGIN PERFORM pg_sleep(1000); END", "plpgsql")
    relay = start_relay(own_db, own_bouncer, PGHERALD_RECOVERY_TIMEOUT="60", PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    worker.passes(own_data, notify="before")

    def hanging():
        return own_db.sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'", user="postgres")
    for n in range(1, 4):
        wait_until(hanging, "recovery hangs")
        own_db.terminate("pgherald upstream")
        wait_until(lambda: own_pg.log().count("canceling statement due to user request") >= n, "its end at the server")
    assert len(hanging()) <= 1


@pytest.mark.parametrize("rows", ["'elsewhere', 'x'", "'data_sync_changes', ''", "'data_sync_changes', repeat('x', 9000)"],
                         ids=["another-channel", "empty", "huge"])
def test_odd_rows_stop_nothing(start_relay, db, bouncer, run, rows):
    data = DataSync(run, db)
    data.function(f"SELECT {rows} UNION ALL SELECT 'data_sync_changes', 'good'", "sql")
    relay = start_relay(db, bouncer, PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert "good" in worker.recovered
    data.notify("live")
    worker.hears("live")


def test_it_is_asked_again_from_the_same_checkpoint(start_relay, own_db, own_bouncer, own_data):
    """The backend that recovers is killed in the middle, twice: no gap, nothing lost."""
    relay = start_relay(own_db, own_bouncer, PGHERALD_RECOVERY_RATE="2000", PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    worker.passes(own_data, notify="before")
    own_data.write_many(1, 4000)
    seen = len(worker.frames)
    own_db.terminate("pgherald upstream")
    killed = []
    for _ in range(2):
        wait_until(lambda: set(own_db.backends("pgherald recovery")) - set(killed), "the backend that recovers")
        have = len(worker.recovered)
        worker.wait_until(lambda: len(worker.recovered) > have + 300, "some of it")
        killed += own_db.backends("pgherald recovery")
        own_db.terminate("pgherald recovery")
    worker.sees("live", seen)
    assert set(worker.recovered) >= {f"u{n}" for n in range(1, 4001)}
    assert not worker.gaps
    assert any("tried again" in line for line in relay.lines("WARNING"))


def test_the_rate_is_kept(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, PGHERALD_RECOVERY_RATE="1000", PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    worker.passes(data, notify="before")
    data.write_many(1, 3000)
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.wait_until(lambda: worker.recovered, "the beginning")
    start = time.monotonic()
    worker.sees("live", seen)
    took = time.monotonic() - start
    assert set(worker.recovered) >= {f"u{n}" for n in range(1, 3001)}
    assert 2 < took < 8, f"3000 rows at 1000 a second took {took:.1f} s"


# A large table

@pytest.fixture(scope="module")
def million(run, template, pg):
    """A table of a million users, and the migration applied to it."""
    database = pg.database()
    data = DataSync(run, database)
    data.write_many(1, 1000000)
    data.recoverable()
    database.sql("ANALYZE user_revisions")
    yield data
    database.close()


def explain(data, checkpoint):
    plan = data.database.sql("EXPLAIN (ANALYZE, FORMAT JSON) SELECT channel, value FROM pgherald.changes_since(%s::pg_snapshot)",
                             (checkpoint.split(";")[3],))[0][0][0]
    nodes, scans = [plan["Plan"]], []
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            scans.append((node["Node Type"], node.get("Index Name")))
    return scans, plan["Execution Time"] + plan["Planning Time"]


@pytest.mark.long
def test_a_thousand_of_a_million_users_take_the_index_and_milliseconds(million, start_relay, bouncer):
    relay = start_relay(million.database, bouncer, PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay)
    checkpoint = worker.passes(million, notify="before")
    million.write_many(500001, 501000)
    scans, milliseconds = explain(million, checkpoint)
    assert [index for _, index in scans] and all(index == "user_revisions_changed_xid_idx" for kind, index in scans
                                                 if kind != "Bitmap Heap Scan"), scans
    assert milliseconds < 100, milliseconds
    seen = len(worker.frames)
    million.database.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert set(worker.recovered) == {f"u{n}" for n in range(500001, 501001)}


@pytest.mark.long
def test_a_million_users_stall_nobody_and_fill_no_memory(without_sanitizers, million, start_relay, bouncer):
    """All of them changed while the relay was away. A change that is committed during the
    recovery is heard during it."""
    relay = start_relay(million.database, bouncer, PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay, ["live"] + [f"live{n}" for n in range(100)])
    worker.passes(million, notify="live")
    before = relay.rss()
    million.database.sql("UPDATE user_revisions SET revision = revision + 1")
    seen = len(worker.frames)
    million.database.terminate("pgherald upstream")
    worker.sees("down", seen)
    wait_until(lambda: million.database.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgherald recovery'"
                                            " AND query LIKE '%%changes_since($1%%' AND datname = current_database()",
                                            user="postgres"), "the recovery")
    during = 0
    for n in range(100):
        start = time.monotonic()
        million.notify(f"live{n}")
        worker.hears(f"live{n}")
        assert time.monotonic() - start < 2
        assert grew_by_at_most(relay, before, (16 + 16) << 20), f"from {before} to {relay.rss()} bytes, where the backlog has 16 MiB"
        if [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"]:
            break
        during += 1
        worker.pump(0.1)
    assert during > 3, "the recovery was over before anything was asked of it"
    worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"], "live", 60)
    assert not worker.gaps
    assert relay.lines("ERROR") == []


# The migration

@pytest.mark.versions
def test_the_migration_up_up_down_down(data, db):
    def structure():
        return db.sql("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'user_revisions'"
                      " ORDER BY 1"), db.sql("SELECT indexname FROM pg_indexes WHERE tablename = 'user_revisions' ORDER BY 1"), \
            db.sql("SELECT tgname FROM pg_trigger WHERE tgrelid = 'user_revisions'::regclass ORDER BY 1"), \
            db.sql("SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'pgherald'"
                   " ORDER BY 1"), db.sql("SELECT nspname FROM pg_namespace WHERE nspname = 'pgherald'")
    data.migrate("recovery_down")
    bare = structure()
    assert bare[4] == []
    data.migrate("recovery")
    up = structure()
    assert up != bare
    data.migrate("recovery")
    assert structure() == up
    data.migrate("notify")
    data.migrate("notify")
    data.migrate("notify_down")
    assert structure() == up
    data.migrate("notify")
    data.migrate("recovery_down")
    data.write("alice")
    data.migrate("notify_down")
    data.migrate("notify_down")
    data.migrate("recovery_down")
    assert structure() == bare


def test_the_migration_rewrites_no_table_and_makes_no_writer_wait(run, db):
    """A long transaction holds the table. The migration waits, and no writer waits for it
    longer than its lock_timeout."""
    data = DataSync(run, db)
    data.write_many(1, 1000)
    file = db.sql("SELECT pg_relation_filenode('user_revisions')")
    holder = data.begin("holder")
    thread = threading.Thread(target=data.migrate, args=("recovery",))
    thread.start()
    wait_until(lambda: db.sql("SELECT 1 FROM pg_locks WHERE NOT granted", user="postgres"), "the migration at the lock")
    slowest = 0
    for n in range(30):
        start = time.monotonic()
        data.write(f"w{n}")
        slowest = max(slowest, time.monotonic() - start)
    assert thread.is_alive(), "the holder holds"
    assert slowest < 2.5
    holder.commit()
    thread.join()
    assert db.sql("SELECT pg_relation_filenode('user_revisions')") == file
    data.write("after")
    assert db.sql("SELECT count(*) FROM user_revisions WHERE changed_xid IS NOT NULL")[0][0] >= 1


def test_an_index_whose_build_was_interrupted_is_built_anew(run, db):
    data = DataSync(run, db).recoverable()
    db.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'user_revisions_changed_xid_idx'::regclass", user="postgres")
    data.migrate("recovery")
    assert db.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'user_revisions_changed_xid_idx'::regclass") == [(True,)]


def test_a_relays_role_of_its_own_needs_select_only(run, own_pg, own_db, make_relay):
    data = DataSync(run, own_db).recoverable()
    own_pg.sql("CREATE ROLE herald LOGIN")
    own_db.sql("GRANT SELECT ON user_revisions TO herald")
    url = own_pg.url(own_db.name, "herald")
    relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start()
    worker = subscriber(relay)
    worker.passes(data)
    own_db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgherald upstream'",
               user="postgres")
    worker.sees("down")
    data.write("missed")
    worker.hears("missed")
    worker.sees("live")
    assert not worker.gaps


# Notifying inside the transaction

def test_the_trigger_notifies_with_and_without_a_client_id(relay, data, db):
    data.migrate("notify")
    worker = subscriber(relay)
    data.write("alice")
    assert worker.hears("alice").client_id is None
    db.sql("BEGIN; SET LOCAL pgherald.client_id = 'phone \"1\"';"
           " UPDATE user_revisions SET revision = revision + 1 WHERE user_id = 'alice'; COMMIT")
    assert worker.hears("alice", 'phone "1"')
    # the setting of one transaction is not the next one's
    connection = db.server.connect(db.name, "app")
    cursor = connection.cursor()
    cursor.execute("BEGIN; SET LOCAL pgherald.client_id = 'x'; INSERT INTO user_revisions VALUES ('bob', 1); COMMIT")
    cursor.execute("INSERT INTO user_revisions VALUES ('carol', 1)")
    connection.close()
    assert worker.hears("bob").client_id == "x"
    assert worker.hears("carol").client_id is None


def test_the_trigger_makes_no_write_fail(relay, data):
    data.migrate("notify")
    worker = subscriber(relay)
    data.write("y" * 2600)  # an index takes no more; quotes are escaped
    data.write("\"\\\n'é")
    worker.hears("\"\\\n'é")
    with pytest.raises(psycopg2.Error):
        data.database.sql("INSERT INTO user_revisions VALUES (NULL, 1)")
