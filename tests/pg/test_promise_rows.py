"""A row that cannot be announced, many rows, and a snapshot that is too long for a canary:
none of them ends reconciliation or makes it repeat itself."""

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from promise import Canaries, passes_nothing_unheard, silent, turns
from harness.subscriber import resumed, subscriber
from harness.worker import CHANNEL

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


@pytest.fixture
def own_data(run, own_db):
    return DataSync(run, own_db).recoverable()


# A row that no NOTIFY can carry: SQL for its user, what a warning says of it

FUNCTION = ("SELECT CASE WHEN user_id LIKE 'text%' THEN 'notes' ELSE 'data_sync_changes' END,"
            " CASE WHEN user_id LIKE '%null' THEN NULL WHEN user_id = 'huge' THEN repeat('x', 1000000) ELSE user_id::text END"
            " FROM user_revisions"
            " WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since)")
ROWS = {
    "long": ("repeat('x', 9000)", 'channel="data_sync_changes" length=9000'),
    "very-long": ("'huge'", 'channel="data_sync_changes" length=1000000'),
    "long-with-its-json": ("repeat('x', 7995)", 'channel="data_sync_changes" length=7995'),
    "long-once-escaped": ("repeat('\"', 5000)", 'channel="data_sync_changes" length=5000'),
    "null": ("'null'", 'channel="data_sync_changes"'),
    "text-long": ("rpad('text', 8000, 'x')", 'channel="notes" length=8000'),
    "text-null": ("'text-null'", 'channel="notes"'),
}


def goes_on(start_relay, data, database, user, said, channels):
    """All other rows are announced, recovered and passed by checkpoints, now and after a
    restart of the relay."""
    relay = start_relay(database, PGHERALD_CHANNELS=channels, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    database.sql(f"INSERT INTO user_revisions VALUES ({user}, 1)")
    bad = [u for u, in database.sql("SELECT user_id FROM user_revisions")]
    for n in range(2):
        silent(data, [f"good{n}"])
        worker.hears(f"good{n}")
        worker.passes(data)
    wait_until(lambda: [line for line in relay.lines("WARNING") if said in line], f"a WARNING with {said}")
    passes_nothing_unheard(worker, data, but=bad)
    cursor = ("another-epoch", 1, worker.frames[1].checkpoint)  # from before the row
    relay.stop()
    relay.start()
    worker = subscriber(relay)
    database.sql(f"UPDATE user_revisions SET revision = 2 WHERE user_id = {user}")
    seen = len(worker.frames)
    database.terminate("pgherald upstream")
    worker.sees("down", seen)
    silent(data, ["missed"])
    worker.sees("live", seen)
    worker.hears("missed")
    worker.passes(data)
    again = resumed(relay, cursor)
    assert {"good0", "good1", "missed"} <= set(again.pubkeys)
    assert not worker.gaps and not again.gaps, "one row that nobody could be told of is no gap for all"
    return relay


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_no_notify_can_carry_is_skipped(start_relay, db, data, row):
    data.function(FUNCTION, "sql")
    goes_on(start_relay, data, db, *ROWS[row], "data_sync_changes,notes:text")


def test_a_row_of_many_megabytes_is_skipped_and_takes_no_memory(without_sanitizers, start_relay, db, data):
    """A role that may write a row decides how long it is."""
    data.function(FUNCTION.replace("1000000", "30000000"), "sql")
    relay = goes_on(start_relay, data, db, "'huge'", 'channel="data_sync_changes" length=1048576', "data_sync_changes")
    assert relay.peak() < 64 << 20


def test_a_long_row_by_the_migrations_own_function(start_relay, db, data):
    goes_on(start_relay, data, db, *ROWS["long"], "data_sync_changes")


def test_a_row_that_is_no_utf8(start_relay, run, pg, cleanup):
    """A database without an encoding accepts any bytes."""
    db = cleanup.add(pg.database("SQL_ASCII"))
    data = DataSync(run, db).recoverable()
    data.function(FUNCTION.replace("repeat('x', 1000000)", "E'\\xff\\xfe'"), "sql")
    goes_on(start_relay, data, db, "'huge'", 'channel="data_sync_changes" length=2', "data_sync_changes")


def test_the_longest_that_a_notify_carries_is_announced(start_relay, db, data, listen):
    """Nothing that can be announced is skipped: the limit is the server's."""
    plain = listen(db, CHANNEL)
    worker = subscriber(start_relay(db, **FAST))
    worker.passes(data)
    longest = "x" * (7999 - len('{"p":""}'))
    silent(data, [longest])
    worker.hears(longest)
    plain.wait_for('{"p":"%s"}' % longest)
    worker.passes(data)


# Snapshots that are too long for a canary

@pytest.fixture
def crowd(own_db, own_data, cleanup):
    """Called with a number, keeps this many transactions open, each with a change. Returns
    what ends them, and their users."""
    own_db.sql("ALTER SYSTEM SET max_prepared_transactions = 400", user="postgres")
    own_db.server.restart()
    connection = cleanup.add(own_db.server.connect(own_db.name, "app"))

    def begin(count):
        users = [f"held{n}" for n in range(count)]
        for user in users:
            connection.cursor().execute(
                f"BEGIN; INSERT INTO user_revisions VALUES ('{user}', 1); PREPARE TRANSACTION '{user}'")

        def commit():
            for user in users:
                connection.cursor().execute(f"COMMIT PREPARED '{user}'")
        own_data.change("younger")  # so that all of them are older than the end of the snapshot
        assert len(own_db.sql("SELECT pg_current_snapshot()::text")[0][0]) > 1024
        return users, commit
    return begin


def times(plain, users):
    """How often each user was announced or notified."""
    heard = [payload for _, payload in plain._poll()]
    return {user: heard.count('{"p":"%s"}' % user) for user in users}


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_long_snapshot_makes_nothing_be_announced_again(start_relay, own_db, own_data, crowd, listen, cleanup, when):
    """Fifty users, each notified once, and many turns while an old transaction and hundreds
    of others are in progress."""
    plain, canaries = listen(own_db, CHANNEL), cleanup.add(Canaries(own_db))
    worker = subscriber(start_relay(own_db, **FAST))
    worker.passes(own_data)
    users = [f"u{n}" for n in range(50)]
    if when == "before":
        oldest = own_data.begin("oldest")
        for user in users:
            own_data.change(user)
    held, commit = crowd(330)
    if when == "meanwhile":
        oldest = own_data.begin("oldest")
        for user in users:
            own_data.change(user)
    turns(worker, own_data, canaries, 12)
    assert times(plain, users) == dict.fromkeys(users, 1)
    # and a change that is never notified is announced, once
    commit()
    oldest.commit()
    worker.hears_all(held + ["oldest"])
    turns(worker, own_data, canaries, 6)
    assert times(plain, held + ["oldest"]) == dict.fromkeys(held + ["oldest"], 1)
    worker.passes(own_data)
    passes_nothing_unheard(worker, own_data)


def test_another_that_takes_the_lead_announces_at_most_once_more(start_relay, own_db, own_data, crowd, listen, cleanup):
    """It begins with the short form of the snapshot, so it may announce what was heard since
    the oldest transaction: once, and not at each turn."""
    plain, canaries = listen(own_db, CHANNEL), cleanup.add(Canaries(own_db))
    first = start_relay(own_db, **FAST)
    worker = subscriber(start_relay(own_db, **FAST, PGHERALD_LOG_LEVEL="info"))
    worker.passes(own_data)
    users = [f"u{n}" for n in range(50)]
    held, commit = crowd(330)
    for user in users:
        own_data.change(user)
    turns(worker, own_data, canaries, 4)
    first.kill()
    turns(worker, own_data, canaries, 12, worker.epoch)
    assert max(times(plain, users).values()) <= 3, "by two leaders at the most, after the writer's own"
    commit()
    worker.hears_all(held)
    worker.passes(own_data)
    passes_nothing_unheard(worker, own_data)


# More rows than the rate lets pass

@pytest.mark.parametrize("notified", [False, True], ids=["silent", "notified"])
def test_the_rate_of_recovery_does_not_slow_reconciliation(start_relay, db, data, notified):
    """At one row a second, this question would take an hour."""
    worker = subscriber(start_relay(db, PGHERALD_RECOVERY_RATE="1", **FAST))
    worker.passes(data)
    for n in range(4):
        users = [f"u{i}" for i in range(n * 1000 + 1, n * 1000 + 1001)]
        data.write_many(n * 1000 + 1, n * 1000 + 1000)
        if notified:
            db.sql("SELECT pg_notify('data_sync_changes', '{\"p\":\"u' || i || '\"}') FROM generate_series(%s, %s) AS i",
                   (n * 1000 + 1, n * 1000 + 1000))
        worker.hears_all(users)
        worker.passes(data)
    assert not worker.gaps
    passes_nothing_unheard(worker, data)


def test_the_rate_does_not_slow_the_reconciliation_that_follows_an_outage(start_relay, db, data):
    """Recovery keeps to the rate. Reconciliation after it does not."""
    worker = subscriber(start_relay(db, PGHERALD_RECOVERY_RATE="20", **FAST))
    worker.passes(data)
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("down", seen)
    silent(data, [f"missed{n}" for n in range(10)])
    worker.sees("live", seen)
    worker.hears_all(f"missed{n}" for n in range(10))
    data.write_many(1, 2000)
    worker.hears_all(f"u{n}" for n in range(1, 2001))
    worker.passes(data)
    passes_nothing_unheard(worker, data)
