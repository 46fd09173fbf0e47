"""Workers catch up from the database, each at its own pace: none starts again, none holds up
another, and the memory for all of them has a limit."""

import os
import time
from collections import Counter

import pytest

from harness.datasync import DataSync
from harness.ops import metric, objects
from harness.procs import wait_until
from harness.subscriber import Subscriber, resumed, subscriber
from test_limits import NOBODY, NOGROUP, as_user
from test_overrun import flood, is_live_again
from harness.worker import CHANNEL, SUBSCRIBE, Checkpoint, Gap, Ok

SETTINGS = {"PGHERALD_CHECKPOINT_INTERVAL": "0.1", "PGHERALD_RECONCILE": "no"}
USERS = 30000
LONG = "a user with a long name " + "x" * 76


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


@pytest.fixture
def start(start_relay, db, bouncer, data):
    return lambda **settings: start_relay(db, bouncer, **SETTINGS, **settings)


def cursors(relay, data, count):
    """Cursors of this many earlier workers, each with another checkpoint. None is in the
    backlog's epoch."""
    worker = subscriber(relay)
    found = []
    while len(found) < count:
        checkpoint = worker.passes(data, notify="before")
        if checkpoint not in found:
            found.append(checkpoint)
    worker.close()
    return [("an epoch that is gone", 1, checkpoint) for checkpoint in found]


def missed(worker, prefix="u"):
    """How often each of the users was recovered."""
    return Counter(user for user in worker.recovered if user.startswith(prefix))


def got_each_about_once(worker, prefix="u", users=USERS):
    counts = missed(worker, prefix)
    assert set(counts) >= {f"{prefix}{n}" for n in range(1, users + 1)}
    assert sum(counts.values()) < users * 1.02, f"{sum(counts.values())} frames for {users} users"
    assert not worker.gaps


def kept(relay):
    return metric(relay, "pgherald_recovery_bytes")


def nothing_is_kept(relay):
    wait_until(lambda: kept(relay) == 0 and metric(relay, "pgherald_recovery_workers") == 0, "the memory is given back")


# Slow readers

def test_a_slow_steady_reader_gets_each_change_once(start, data):
    """It reads a frame every 2 ms, for so long that it could seem to read nothing; then it
    reads at full speed."""
    relay = start()
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS)
    worker = resumed(relay, cursor, wait=False)
    while len(worker.changes) < 1500:
        worker.pump(1, most=24)
        time.sleep(0.002)
    worker.caught_up()
    got_each_about_once(worker)
    data.change("live")
    assert worker.hears("live").flags == 0
    nothing_is_kept(relay)


def test_more_than_the_memory_holds_comes_at_the_pace_of_who_reads(start, data):
    """No other worker waits, so the relay waits for the reader."""
    relay = start(PGHERALD_RECOVERY_SIZE="256K")
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS, LONG)
    worker = resumed(relay, cursor, wait=False)
    pumped = most = 0
    while worker._begin not in worker._answers:
        worker.pump(1, most=4096)
        time.sleep(0.002)
        pumped += 1
        if pumped % 100 == 0:
            most = max(most, kept(relay))
    got_each_about_once(worker, LONG)
    assert 0 < most <= 256 << 10
    assert metric(relay, "pgherald_limit_reached_total", limit="recovery_size") == 0
    nothing_is_kept(relay)


def test_a_fast_one_does_not_wait_for_a_slow_one_that_asks_the_same(start, data):
    relay = start()
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS)
    asked = metric(relay, "pgherald_recovery_questions_total")
    relay.freeze()
    slow, fast = (resumed(relay, cursor, wait=False) for _ in range(2))
    relay.thaw()
    slow.wait_until(lambda: slow.recovered, "the beginning")
    fast.caught_up()
    got_each_about_once(fast)
    assert metric(relay, "pgherald_recovery_questions_total") == asked + 1
    # the operator sees what the slow one must still get
    left = {w["state"]: w["to_recover"] for w in objects(relay.ops("workers json"))}
    assert left["catching-up"] > 0 and left["live"] == 0, left
    slow.caught_up()
    got_each_about_once(slow)
    nothing_is_kept(relay)


def test_a_catch_up_that_outlasts_checkpoints_and_backlog_goes_on_from_where_it_was_asked(start, db, data):
    """Meanwhile more checkpoints come than the relay remembers, and more changes than the
    backlog holds. The relay then asks for what is still missing, and not for everything
    again."""
    relay = start(PGHERALD_BACKLOG_SIZE="64K")
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS)
    witness = subscriber(relay)
    witness.passes(data, notify="seen")
    worker = resumed(relay, cursor, wait=False)
    worker.wait_until(lambda: worker.recovered, "the beginning")
    seen = len(witness.of(Checkpoint))
    while len(witness.of(Checkpoint)) < seen + 70:
        data.notify("tick")
        witness.pump(0.1)
    data.change("late")
    flood(db, 5000)
    witness.hears("noise5000")
    worker.caught_up()
    worker.hears("late")
    got_each_about_once(worker)
    is_live_again(worker, data)
    assert not worker.gaps


def test_it_goes_on_when_it_is_asked_again_in_the_middle(start, db, data):
    """The backend that recovers is killed twice. What is in the next answer and was not in
    the first one comes too."""
    relay = start(PGHERALD_RECOVERY_RATE="2000")
    cursor, = cursors(relay, data, 1)
    data.write_many(1, 3000)
    worker = resumed(relay, cursor, wait=False)
    killed = []
    for n in range(2):
        wait_until(lambda: set(db.backends("pgherald recovery")) - set(killed), "the backend that recovers")
        have = len(worker.recovered)
        worker.wait_until(lambda: len(worker.recovered) > have + 300, "some of it")
        data.write(f"between{n}")
        killed += db.backends("pgherald recovery")
        db.terminate("pgherald recovery")
    worker.caught_up()
    assert set(worker.recovered) >= {f"u{n}" for n in range(1, 3001)} | {"between0", "between1"}
    assert len(worker.recovered) < 3 * 3000, "from the beginning at most twice again"
    assert not worker.gaps
    nothing_is_kept(relay)


def test_what_is_unsubscribed_in_the_middle_comes_no_more(start, data):
    relay = start()
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS)
    worker = resumed(relay, cursor, wait=False)
    worker.wait_until(lambda: worker.recovered, "the beginning")
    worker.unsubscribe()
    assert len(worker.recovered) < USERS
    worker.caught_up()
    nothing_is_kept(relay)


def test_who_leaves_in_the_middle_leaves_nothing_behind(start, data):
    relay = start(PGHERALD_RECOVERY_SIZE="256K")
    cursor, = cursors(relay, data, 1)
    data.write_many(1, USERS, LONG)
    for _ in range(10):
        worker = resumed(relay, cursor, wait=False)
        worker.wait_until(lambda: worker.recovered, "the beginning")
        worker.close()
    nothing_is_kept(relay)
    got_each_about_once(resumed(relay, cursor), LONG)


# Each other

@pytest.mark.parametrize("count", [3, 10])
def test_trickling_readers_do_not_delay_another(start, data, count):
    relay = start()
    *theirs, honest = cursors(relay, data, count + 1)
    data.write_many(1, USERS // 2, LONG)
    trickling = [resumed(relay, cursor, wait=False) for cursor in theirs]
    for worker in trickling:
        worker.wait_until(lambda worker=worker: worker.recovered, "the beginning", 30)
    worker = resumed(relay, honest, wait=False)

    def caught_up():
        for slow in trickling:
            slow.pump(0, most=4000)
        worker.pump(0.01)
        return worker._begin in worker._answers
    wait_until(caught_up, "the OK to BEGIN")
    got_each_about_once(worker, LONG, USERS // 2)
    assert not any(slow._begin in slow._answers for slow in trickling), "they are through; else this test shows nothing"


def resumed_by_another(relay, cursor):
    """A worker of another user that resumes, and reads nothing."""
    def resume():
        worker = Subscriber(relay.path, resume=cursor)
        worker.ask(SUBSCRIBE, CHANNEL, None)
        worker.begin()
        return worker
    worker = as_user(NOBODY, NOGROUP, [], resume)
    relay._workers.append(worker)
    return worker


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_user_that_fills_the_memory_hurts_itself_alone(start, data):
    """Many workers of one user ask for much and read nothing. Workers of another user come
    meanwhile, and find room at once."""
    relay = start(PGHERALD_RECOVERY_SIZE="1M", PGHERALD_SOCKET_MODE="0666")
    theirs = cursors(relay, data, 4)
    data.write_many(1, USERS, LONG)
    honest, = cursors(relay, data, 1)
    data.write_many(1, 100)
    for cursor in theirs * 4:
        resumed_by_another(relay, cursor)
    wait_until(lambda: kept(relay) >= 704 << 10, "the other user's share is full")
    worker = resumed(relay, honest)
    assert metric(relay, "pgherald_limit_reached_total", limit="recovery_size") == 0, "it had to wait"
    got_each_about_once(worker, users=100)
    assert kept(relay) <= 1 << 20
    # and much, when the relay already tells the other user of gaps
    worker.close()
    worker = resumed(relay, theirs[0])
    got_each_about_once(worker, LONG)
    assert kept(relay) <= 1 << 20


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_user_whose_questions_hang_leaves_a_lane_to_others(start, data, db):
    data.database.sql("CREATE TABLE hang AS SELECT true AS yes")
    data.function("BEGIN IF (SELECT yes FROM hang) THEN PERFORM pg_sleep(1000); END IF;"
                  " RETURN QUERY SELECT 'data_sync_changes', user_id::text FROM user_revisions; END")
    relay = start(PGHERALD_SOCKET_MODE="0666", PGHERALD_RECOVERY_TIMEOUT="60")
    *theirs, honest = cursors(relay, data, 6)
    data.write("missed")

    def hanging():
        return len(db.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
                          user="postgres"))
    own = hanging()  # the relay's
    hostile = [resumed_by_another(relay, cursor) for cursor in theirs]
    for worker in hostile:
        worker.ping()
    wait_until(lambda: hanging() == own + 1, "a question that hangs")
    db.sql("UPDATE hang SET yes = false")
    worker = resumed(relay, honest)
    assert worker.recovered.count("missed") == 1 and not worker.gaps
    assert hanging() == own + 1, "the other user's is answered; else this test shows nothing"


def test_who_stops_for_good_is_told_of_a_gap_when_others_wait(start, data):
    relay = start(PGHERALD_RECOVERY_SIZE="256K")
    first, second = cursors(relay, data, 2)
    data.write_many(1, USERS, LONG)
    stopped = resumed(relay, first, wait=False)
    wait_until(lambda: kept(relay) > 64 << 10, "its share is full")
    waits = resumed(relay, second)
    got_each_about_once(waits, LONG)
    assert metric(relay, "pgherald_limit_reached_total", limit="recovery_size") == 1
    assert any("PGHERALD_RECOVERY_SIZE" in line for line in relay.lines("WARNING"))
    nothing_is_kept(relay)
    # it was told, has a checkpoint, and is live
    ok = stopped.caught_up()
    gap, = stopped.of(Gap)
    assert gap.cause == "overrun" and stopped.frames.index(gap) < stopped.frames.index(ok)
    assert len(stopped.recovered) < USERS
    stopped.wait_until(lambda: stopped.frames[-1:] == stopped.of(Checkpoint)[-1:], "a CHECKPOINT")
    is_live_again(stopped, data)
    assert len(stopped.gaps) == 1


def test_those_who_wait_for_a_lane_are_answered_meanwhile(start, data):
    relay = start(PGHERALD_RECOVERY_SIZE="256K")
    first, second = cursors(relay, data, 2)
    data.write_many(1, USERS, LONG)
    stopped = resumed(relay, first, wait=False)
    wait_until(lambda: kept(relay) > 64 << 10, "its share is full")
    waits = resumed(relay, second, wait=False)
    assert isinstance(waits.ping(), Ok)
    waits.close()
    stopped.close()
    nothing_is_kept(relay)
