"""The migrations: rows from before count as changed; changes that replication applies, and
changes of an id, are told; and each migration may run again at any time, next to other work."""

import threading

import pytest

from harness.datasync import OLDER, SQL, DataSync, psql
from harness.procs import wait_until
from harness.servers import Database, Postgres
from harness.subscriber import resumed, subscriber
from harness.worker import CHANNEL

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
INDEX = "user_revisions_changed_xid_idx"


@pytest.fixture
def data(run, db):
    """The tables, without a migration."""
    return DataSync(run, db)


def snapshot(data):
    return data.database.sql("SELECT pg_current_snapshot()::text")[0][0]


def changed(data, since, user="app"):
    """The users that recovery returns, each once."""
    rows = data.database.sql("SELECT DISTINCT channel, value FROM pgherald.changes_since(%s::pg_snapshot) ORDER BY 2", (since,), user)
    assert {channel for channel, _ in rows} <= {CHANNEL}
    return [value for _, value in rows]


def as_replication(data, *statements):
    """What an apply worker of logical replication does."""
    data.database.sql("SET session_replication_role = replica; " + "; ".join(statements), user="postgres")


# What stood before

def test_what_stood_before_counts_as_changed_by_the_installation(data):
    data.write("alice", "bob")
    before = snapshot(data)
    data.recoverable()
    after = snapshot(data)
    assert changed(data, before) == ["alice", "bob"] and changed(data, after) == []
    data.write("carol")
    assert changed(data, after) == ["carol"] and changed(data, before) == ["alice", "bob", "carol"]


def test_what_changed_while_it_was_taken_down_counts_as_changed_by_the_next(data):
    data.recoverable()
    data.write("alice")
    stamped = snapshot(data)
    data.migrate("recovery_down")
    data.write("bob")
    unstamped = snapshot(data)
    data.recoverable()
    assert changed(data, stamped) == changed(data, unstamped) == ["alice", "bob"]
    assert changed(data, snapshot(data)) == []


def test_what_an_older_version_left_without_a_stamp_counts_as_changed(data):
    data.write("before")
    data.migrate("recovery", directory=OLDER)
    since = snapshot(data)
    assert changed(data, "3:3:") == [], "the older version loses it; else this test shows nothing"
    data.recoverable()
    assert changed(data, since) == ["before"] and changed(data, snapshot(data)) == []


def test_what_an_older_version_did_not_stamp_again_counts_as_changed(data):
    """The older version did not see what replication applied: the row kept the stamp of an
    earlier change."""
    data.migrate("recovery", directory=OLDER)
    data.write("alice")
    since = snapshot(data)
    as_replication(data, "UPDATE user_revisions SET revision = 7")
    assert changed(data, since) == [], "the older version loses it; else this test shows nothing"
    data.recoverable()
    assert changed(data, since) == ["alice"] and changed(data, snapshot(data)) == []


def test_a_rerun_that_mends_nothing_changes_nothing(data):
    data.write("alice")
    data.recoverable()
    since = snapshot(data)
    source = "SELECT prosrc FROM pg_proc WHERE proname = 'changes_since'"
    installed = data.database.sql(source)
    assert data.migrate("recovery", "recovery") == "", "it has nothing to say"
    assert data.database.sql(source) == installed
    assert changed(data, since) == []


@pytest.mark.parametrize("damage", ["DISABLE TRIGGER pgherald_stamp", "ENABLE TRIGGER pgherald_stamp"])
def test_a_rerun_mends_a_trigger_and_owns_what_it_let_through(data, damage):
    data.recoverable()
    data.write("alice")
    since = snapshot(data)
    data.database.sql(f"ALTER TABLE user_revisions {damage}")
    as_replication(data, "UPDATE user_revisions SET revision = 7")
    data.migrate("recovery")
    assert changed(data, since) == ["alice"]
    since = snapshot(data)
    as_replication(data, "UPDATE user_revisions SET revision = 8")
    assert changed(data, since) == ["alice"]


def test_a_rerun_finds_a_table_that_was_moved(data):
    data.recoverable()
    since = snapshot(data)
    data.database.sql('CREATE SCHEMA "sync ""of"" apps"; ALTER TABLE user_revisions SET SCHEMA "sync ""of"" apps";'
                      f'ALTER DATABASE {data.database.name} SET search_path = "sync ""of"" apps", public')
    data.migrate("recovery")
    data.database.sql("INSERT INTO user_revisions VALUES ('alice', 1)")
    assert changed(data, since) == ["alice"]
    data.migrate("recovery_down")


def test_what_a_dump_brings_along_is_not_announced_for_ever(run, template, own_pg, own_db, dump, cleanup):
    """The stamps in the dump, and the function's, are of another cluster, and may lie in
    this one's future. An oid means something else there. Running the migration again mends
    that."""
    own_db.sql("CREATE TABLE gone (); DROP TABLE gone")
    source = DataSync(run, own_db)
    own_db.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    source.write("early")
    source.recoverable().write("late")
    target = cleanup.add(Postgres(run, template)).start()
    target.sql(f"CREATE DATABASE {own_db.name} OWNER app TEMPLATE template0")
    sql = dump(own_pg, own_db.name)
    run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", target.directory, "-p", str(target.port), "-U", "postgres",
              own_db.name], input=sql)
    restored = DataSync(run, Database(target, own_db.name), restored=True)
    since = snapshot(restored)
    restored.write("bob")
    assert changed(restored, since) == ["bob"]
    restored.migrate("recovery", user="postgres")
    assert changed(restored, since) == ["bob", "early", "late"] and changed(restored, snapshot(restored)) == []


def test_a_worker_hears_what_it_missed_before_the_installation(start_relay, data, bouncer):
    relay = start_relay(data.database, bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(data, notify="before")
    cursor = worker.cursor
    worker.close()
    data.write("missed")
    data.recoverable()
    again = resumed(start_relay(data.database, bouncer, **FAST), cursor)
    assert "missed" in again.recovered and not again.gaps


# What replication applies

@pytest.mark.parametrize("older", [False, True], ids=["new", "upgraded"])
def test_what_replication_applies_is_stamped_and_notified(data, listen, older):
    if older:
        data.migrate("recovery", "notify", directory=OLDER)
    data.migrate("recovery", "notify")
    data.write("updated", "upserted")
    since = snapshot(data)
    plain = listen(data.database, CHANNEL)
    as_replication(data, "INSERT INTO user_revisions VALUES ('inserted', 1)",
                   "UPDATE user_revisions SET revision = 7 WHERE user_id = 'updated'",
                   "INSERT INTO user_revisions VALUES ('upserted', 1) ON CONFLICT (user_id) DO UPDATE SET revision = 7")
    assert changed(data, since) == ["inserted", "updated", "upserted"]
    assert plain.wait(3) == [(CHANNEL, '{"p":"%s"}' % user) for user in ("inserted", "updated", "upserted")]


def test_what_replication_applies_is_announced(start_relay, data, bouncer):
    worker = subscriber(start_relay(data.recoverable().database, bouncer, **FAST))
    as_replication(data, "INSERT INTO user_revisions VALUES ('applied', 1)")
    assert worker.hears("applied").flags == 0


# A user that gets another id

def rename(data, old, new):
    data.database.sql("UPDATE user_revisions SET user_id = %s, revision = revision + 1 WHERE user_id = %s", (new, old))


def test_both_ids_are_notified(data, listen):
    data.migrate("notify")
    data.write("old")
    plain = listen(data.database, CHANNEL)
    rename(data, "old", "new")
    rename(data, "new", "new")
    assert plain.wait(3) == [(CHANNEL, '{"p":"%s"}' % user) for user in ("old", "new", "new")]


def test_both_ids_are_recovered(data):
    data.recoverable()
    data.write("a")
    since = snapshot(data)
    rename(data, "a", "b")
    assert changed(data, since) == ["a", "b"]
    between = snapshot(data)
    rename(data, "b", "c")
    rename(data, "c", "b")
    rename(data, "b", "a")
    rename(data, "a", "d")
    assert changed(data, between) == changed(data, since) == ["a", "b", "c", "d"]
    data.migrate("recovery")
    assert changed(data, between) == ["a", "b", "c", "d"] and changed(data, snapshot(data)) == []
    as_replication(data, "UPDATE user_revisions SET user_id = 'e'")
    assert "d" in changed(data, since)


def test_who_listens_to_the_old_id_hears_of_it(start_relay, data, bouncer):
    """By reconciliation, and by recovery."""
    relay = start_relay(data.recoverable().database, bouncer, **FAST)
    data.write("old", "older")
    worker = subscriber(relay, ["old", "older"])
    worker.passes(data)
    seen = len(worker.frames)
    rename(data, "old", "new")
    worker.wait_until(lambda: "old" in [getattr(f, "pubkey", None) for f in worker.frames[seen:]], "the old id, announced")
    worker.passes(data)
    seen = len(worker.frames)
    data.database.terminate("pgherald upstream")
    rename(data, "older", "newer")
    worker.sees("live", seen)
    worker.wait_until(lambda: "older" in [getattr(f, "pubkey", None) for f in worker.frames[seen:]], "the old id, recovered")
    assert not worker.gaps


# Next to others

RUN_ALL = ("recovery", "notify", "notify", "recovery", "recovery_down", "recovery_down", "recovery", "notify_down", "notify_down",
           "notify", "recovery_down", "notify_down", "notify", "recovery")


def test_both_go_up_and_down_next_to_writers_and_a_relay(start_relay, data, bouncer):
    relay = start_relay(data.database, bouncer, **FAST)
    worker = subscriber(relay)
    stop, failures, last = threading.Event(), [], {}

    def write(number):
        n = 0
        try:
            while not stop.is_set():
                n += 1
                data.write(f"w{number}-{n}", f"shared{number}")
        except Exception as e:
            failures.append(e)
        last[number] = n
    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in writers:
        thread.start()
    try:
        for name in RUN_ALL:
            data.migrate(name)
            if name == "recovery":  # the relay finds it, and uses it until it is gone
                seen = len(worker.frames)
                data.database.terminate("pgherald upstream")
                worker.sees("live", seen)
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert not failures
    worker.hears_all([f"w{number}-{n}" for number, n in last.items()])
    since = snapshot(data)
    data.write("after")
    assert changed(data, since) == ["after"]
    worker.hears("after")


def waits_at(data, kind, what):
    """Wait until a migration waits for this."""
    wait_until(lambda: data.database.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'psql' AND wait_event_type = %s"
                                         " AND datname = current_database()", (kind,), user="postgres"), what)


@pytest.mark.parametrize("name, before", [("recovery", ()), ("recovery", ("older",)), ("notify", ()), ("notify_down", ("notify",)),
                                          ("recovery_down", ("recovery",))], ids=str)
def test_it_waits_for_a_long_transaction_in_turns_and_no_writer_behind_it(data, name, before):
    if before == ("older",):
        data.migrate("recovery", directory=OLDER)
    else:
        data.migrate(*before)
    if name == "recovery_down":  # which waits for all transactions, and blocks none
        data.database.sql(f"DROP INDEX {INDEX}")
    holder = data.begin("holder")
    thread = threading.Thread(target=data.migrate, args=(name,))
    thread.start()
    waits_at(data, "Lock", "the migration at the lock")
    waits_at(data, "Timeout", "that it gave up for now")
    data.write("beside")
    waits_at(data, "Lock", "that it tries again")
    holder.commit()
    thread.join(30)
    assert not thread.is_alive()
    assert data.migrate(name) == ""


def test_an_index_build_that_was_interrupted_is_begun_anew(data):
    """An old transaction makes the build wait, until the backend of the build is killed. No
    writer waits for the next build either."""
    data.recoverable()
    data.database.sql(f"DROP INDEX {INDEX}")
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
    holder, ended = data.begin("holder"), []

    def migrate():
        try:
            data.migrate("recovery")
        except AssertionError as e:
            ended.append(str(e))
    thread = threading.Thread(target=migrate)
    thread.start()
    wait_until(lambda: data.database.sql(valid) == [(False,)], "the build")
    data.database.terminate("psql")
    thread.join(30)
    assert ended and "terminating connection" in ended.pop() and data.database.sql(valid) == [(False,)]
    thread = threading.Thread(target=migrate)
    thread.start()
    waits_at(data, "Lock", "the next run at what is left")
    data.write("beside")
    assert thread.is_alive(), "the holder holds"
    holder.commit()
    thread.join(30)
    assert not ended and data.database.sql(valid) == [(True,)]


def test_a_roles_settings_do_not_end_it(run, own_pg, own_db):
    data = DataSync(run, own_db)
    own_pg.sql("ALTER ROLE app SET statement_timeout = '1s'; ALTER ROLE app SET lock_timeout = '100ms';"
               " ALTER ROLE app SET default_transaction_isolation = 'serializable'")
    holder = data.begin("holder")
    thread = threading.Thread(target=data.migrate, args=("recovery", "notify"))
    thread.start()
    waits_at(data, "Timeout", "that it gave up for now")
    waits_at(data, "Lock", "that it tries again")
    holder.commit()
    thread.join(30)
    since = snapshot(data)
    data.write("alice")
    assert changed(data, since) == ["alice"]


def test_a_session_has_its_settings_back(run, data, tmp_path):
    last = tmp_path / "last.sql"
    last.write_text("\\t\n\\a\nSHOW search_path; SHOW statement_timeout; SELECT user_id FROM user_revisions;")
    last.chmod(0o644)
    data.write("alice")
    # each finds the table in the path that the previous one leaves
    assert data.migrate("recovery", "notify", "notify_down", "recovery_down", "recovery") == ""
    output = psql(run, data.database.server, data.database.name, f"{SQL}/recovery.sql", f"{SQL}/recovery_down.sql", str(last))
    assert output.splitlines() == ['"$user", public', "0", "alice"]


def test_without_the_table_nothing_is_installed(run, db):
    data = DataSync(run, db)
    db.sql("ALTER TABLE user_revisions RENAME TO users")
    for name in ("recovery", "notify"):
        with pytest.raises(AssertionError, match="there is no table user_revisions in the search_path"):
            data.migrate(name)
    assert db.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'pgherald'") == []
