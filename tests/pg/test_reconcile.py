"""A change that is committed and never notified is still announced, to every host,
once."""

import threading
import time

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.subscriber import sees, subscriber
from harness.worker import CHANNEL, Change, Checkpoint

INTERVAL = 0.25


def settings(**more):
    return {"PGHERALD_CHECKPOINT_INTERVAL": str(INTERVAL), **more}


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


@pytest.fixture
def hosts(start_relay, db, bouncer, data):
    return [start_relay(db, bouncer, **settings()) for _ in range(3)]


def announced(plain, user):
    return [p for c, p in plain._poll() if c == CHANNEL and p == '{"p":"%s"}' % user]


@pytest.mark.versions
def test_what_nobody_notified_is_announced_to_every_host_once(hosts, data, listen, db):
    plain = listen(db, CHANNEL)
    workers = [subscriber(host) for host in hosts]
    for worker in workers:
        worker.passes(data)
    data.write("silent")
    for worker in workers:
        assert worker.hears("silent").flags == 0, "heard, as any change is"
    # some turns later it is still once
    data.write("second")
    for worker in workers:
        worker.hears("second")
        worker.passes(data)
        assert [w.pubkeys.count("silent") for w in workers] == [1, 1, 1]
        assert not worker.gaps
    assert announced(plain, "silent") == ['{"p":"silent"}']


def test_it_takes_two_intervals(start_relay, db, bouncer, data):
    """The bound is the promised one: two intervals as configured, not the patience of the
    test."""
    relay = start_relay(db, bouncer, PGHERALD_CHECKPOINT_INTERVAL="1")
    worker = subscriber(relay)
    worker.passes(data)
    for n in range(3):
        start = time.monotonic()
        data.write(f"silent{n}")
        worker.hears(f"silent{n}")
        took = time.monotonic() - start
        assert took < 2 * 1 + 0.5, f"announced after {took:.1f} s"


def test_what_was_heard_is_not_announced_again(hosts, data, listen, db):
    plain = listen(db, CHANNEL)
    worker = subscriber(hosts[0])
    worker.passes(data)
    for n in range(60):
        data.change(f"u{n}")
        worker.pump()
    for _ in range(3):
        worker.passes(data)  # some turns
    for n in range(60):
        assert announced(plain, f"u{n}") == ['{"p":"u%d"}' % n]
    assert sorted(worker.pubkeys) == sorted(f"u{n}" for n in range(60))


def test_a_notify_just_before_or_after_the_turn_is_not_doubled(start_relay, db, bouncer, data, listen):
    """Writers that notify correctly, as fast as they can, over many short turns. On a busy machine
    a NOTIFY may come later than an interval after its commit: then the relay is right to announce."""
    interval, prompt = 0.25, []
    plain = listen(db, CHANNEL)
    start_relay(db, bouncer, **settings(PGHERALD_CHECKPOINT_INTERVAL=str(interval)))
    for n in range(200):
        began = time.monotonic()
        data.change(f"u{n}")
        plain.wait_for(f'{{"p":"u{n}"}}')
        if time.monotonic() - began < interval / 2:
            prompt.append(n)
    data.write("end")
    plain.wait_for('{"p":"end"}')
    assert prompt and not [n for n in prompt if len(announced(plain, f"u{n}")) != 1]


def test_a_transaction_that_was_open_for_long_is_announced_once_it_commits(hosts, data):
    workers = [subscriber(host) for host in hosts]
    transaction = data.begin("late")
    for n in range(4):
        data.change(f"u{n}")
        workers[0].hears(f"u{n}")
        workers[0].passes(data)
    assert "late" not in workers[0].pubkeys
    transaction.commit()
    for worker in workers:
        worker.hears("late")


def test_a_rollback_is_not_announced(hosts, data):
    worker = subscriber(hosts[0])
    data.begin("never").close()
    data.write("silent")
    worker.hears("silent")
    worker.passes(data)
    assert worker.pubkeys == ["silent"]


def test_many_at_once(hosts, data):
    workers = [subscriber(host) for host in hosts]
    workers[0].passes(data)
    data.write_many(1, 5000)
    for worker in workers:
        worker.hears_all(f"u{n}" for n in range(1, 5001))
        assert not worker.gaps


def test_more_than_it_keeps_in_mind(start_relay, db, bouncer, data):
    """Beyond its limits it announces again rather than forget."""
    relay = start_relay(db, bouncer, **settings())
    worker = subscriber(relay)
    worker.passes(data)
    data.write_many(1, 100000)
    worker.hears_all((f"u{n}" for n in range(1, 100001)), 60)
    data.write("after")
    worker.hears_all(["after"], 60)
    assert not worker.gaps


def test_no(start_relay, db, bouncer, data, listen):
    plain = listen(db, CHANNEL)
    relay = start_relay(db, bouncer, **settings(PGHERALD_RECONCILE="no"))
    worker = subscriber(relay)
    data.write("silent")
    for n in range(4):
        worker.passes(data, notify=f"u{n}")
    assert "silent" not in worker.pubkeys
    assert announced(plain, "silent") == []


def test_without_the_function_there_is_none(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **settings())
    worker = subscriber(relay)
    data.write("silent")
    for n in range(3):
        worker.passes(data, notify=f"u{n}")
    assert worker.pubkeys == ["u0", "u1", "u2"]


@pytest.mark.parametrize("how", ["kill", "freeze", "stop"])
def test_the_leader_goes_and_another_takes_over(start_relay, db, bouncer, data, how):
    """One leader after the other goes, each just after a change that is never notified."""
    hosts = [start_relay(db, bouncer, **settings()) for _ in range(3)]
    plain = db.listen(CHANNEL)
    worker = subscriber(hosts[-1])
    worker.passes(data)
    for n, host in enumerate(hosts[:-1]):
        data.write(f"silent{n}")
        getattr(host, how)()
        worker.hears(f"silent{n}")
    # another turn, so that a second announcement would have come
    for _ in range(2):
        worker.passes(data)
    if how == "freeze":
        for host in hosts[:-1]:
            host.thaw()
        data.write("last")
        worker.hears("last")
    for n in range(2):
        assert 1 <= len(announced(plain, f"silent{n}")) <= 2, "by two leaders at the most"
    plain.close()


def test_a_newcomer_settles_nothing_of_the_time_before_it(start_relay, own_db, own_bouncer, own_data):
    """The leading relay is frozen with a change that it has not announced. Another starts,
    leads, and says from when on everything is announced. The first one must not take that
    for its own time."""
    first = start_relay(own_db, own_bouncer, **settings())
    worker = subscriber(first)
    worker.passes(own_data)
    first.freeze()
    own_data.write("silent")
    second = start_relay(own_db, own_bouncer, **settings())
    other = subscriber(second)
    other.passes(own_data)
    other.passes(own_data)
    first.thaw()
    worker.wait_until(lambda: "silent" in worker.pubkeys, "the announcement", 30)
    # and then they share turns again
    own_data.write("both")
    for w in (worker, other):
        w.hears("both")
        w.passes(own_data)
    assert_checkpoints_pass_nothing_unheard(worker, own_data)


def test_one_query_an_interval_for_the_whole_fleet(start_relay, db, bouncer, data):
    """Counted in the database, and compared with one relay alone."""
    db.sql("CREATE SEQUENCE calls")
    data.function("BEGIN PERFORM nextval('calls'); RETURN QUERY SELECT 'data_sync_changes', user_id::text FROM user_revisions"
                  " WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since); END")

    def calls_while(worker, rounds):
        before = db.sql("SELECT last_value FROM calls")[0][0]
        canaries = listener._poll() and len(listener.heard)
        for n in range(rounds):
            worker.passes(data, notify=f"u{n}")
        return db.sql("SELECT last_value FROM calls")[0][0] - before, len(listener._poll()) - canaries
    listener = db.listen("pgherald_canary")
    hosts = [start_relay(db, bouncer, **settings())]
    worker = subscriber(hosts[0])
    worker.passes(data)
    alone, canaries_alone = calls_while(worker, 4)
    hosts += [start_relay(db, bouncer, **settings()) for _ in range(7)]
    worker.passes(data)
    together, canaries_together = calls_while(worker, 4)
    assert together <= alone * 2 + 4, f"{alone} queries by one relay, {together} by eight in the same number of turns"
    assert canaries_together <= canaries_alone * 2 + 8, (canaries_alone, canaries_together)
    listener.close()


class Gate:
    """Lets the relay's questions to the database through one at a time. In between the test
    holds a lock, which two connections pass on to each other."""

    def __init__(self, data):
        self.data = data
        data.database.sql("ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO really_since")
        data.function("BEGIN PERFORM pg_advisory_xact_lock_shared(1);"
                      " RETURN QUERY SELECT * FROM pgherald.really_since(since); END")
        self._holder, self._next = (data.database.server.connect(data.database.name, "app") for _ in range(2))
        self._call(self._holder, "pg_advisory_lock")

    def _call(self, connection, function):
        connection.cursor().execute(f"SELECT {function}(1)")

    def _waiting(self, mode):
        return self.data.database.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = %s",
                                      (mode,), user="postgres")[0][0]

    def await_question(self):
        """Wait until the relay's question waits at the gate."""
        wait_until(lambda: self._waiting("ShareLock"), "a question")

    def let_pass(self):
        """Let only the question that waits there be answered."""
        self.await_question()
        thread = threading.Thread(target=self._call, args=(self._next, "pg_advisory_lock"))
        thread.start()
        wait_until(lambda: self._waiting("ExclusiveLock"), "the other connection at the gate")
        self._call(self._holder, "pg_advisory_unlock")
        thread.join()
        self._holder, self._next = self._next, self._holder

    def open(self):
        self._call(self._holder, "pg_advisory_unlock")

    def close(self):
        self._holder.close()
        self._next.close()


@pytest.fixture
def own_data(run, own_db):
    return DataSync(run, own_db).recoverable()


def test_an_announcement_that_fails_is_made_again(start_relay, own_db, own_bouncer, own_data, cleanup):
    """The publisher's connection is cut when the relay wants to announce, for longer than a
    request is kept."""
    relay = start_relay(own_db, own_bouncer, **settings(PGHERALD_RECOVERY_TIMEOUT="60"))
    worker = subscriber(relay)
    worker.passes(own_data)
    gate = cleanup.add(Gate(own_data))
    gate.await_question()  # it is too early to see what follows
    own_data.write("silent")
    gate.let_pass()
    gate.let_pass()        # this one found it
    gate.await_question()  # and after this one it is announced
    assert "silent" not in worker.pubkeys
    own_bouncer.stop()
    gate.open()
    answer = worker.notify("mine")  # as long as a request is kept
    assert answer.code == "timeout", answer
    own_bouncer.start()
    worker.wait_until(lambda: "silent" in worker.pubkeys, "the announcement", 30)
    assert_checkpoints_pass_nothing_unheard(worker, own_data)


def test_the_leader_dies_with_what_it_has_found_and_nothing_else_happens(start_relay, own_db, own_data, cleanup):
    """Its canary sees the change already, so to the others the server seems to have done
    nothing since. They know that no relay has settled it yet."""
    leader = start_relay(own_db, **settings(PGHERALD_RECOVERY_TIMEOUT="60"))
    other = start_relay(own_db, **settings(PGHERALD_CHECKPOINT_INTERVAL="2"))
    worker = subscriber(other)
    worker.passes(own_data)
    gate = cleanup.add(Gate(own_data))
    gate.await_question()
    own_data.write("silent")
    gate.let_pass()
    gate.await_question()  # it will find the change, and its canary has been heard
    leader.kill()
    gate.open()
    worker.hears("silent")
    assert_checkpoints_pass_nothing_unheard(worker, own_data)


def test_a_failed_question_settles_nothing(start_relay, own_db, own_bouncer, own_data):
    """Questions fail for a while. What they would have found is found later, and no
    checkpoint passes it before."""
    relay = start_relay(own_db, own_bouncer, **settings())
    worker = subscriber(relay)
    worker.passes(own_data)
    own_db.sql("ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO really_since")
    for n in range(4):
        failures = relay.log().count("not now")
        own_data.function("BEGIN RAISE 'not now'; END")
        own_data.write(f"silent{n}")
        own_data.notify(f"loud{n}")
        if n == 0:
            wait_until(lambda: relay.log().count("not now") > failures, "a question that failed")
        else:
            worker.hears(f"loud{n}")
            worker.pump(INTERVAL)
            worker.pump(INTERVAL)
        own_data.function("BEGIN RETURN QUERY SELECT * FROM pgherald.really_since(since); END")
        worker.wait_until(lambda: f"silent{n}" in worker.pubkeys, "the announcement", 30)
        worker.passes(own_data)
    assert_checkpoints_pass_nothing_unheard(worker, own_data)


def assert_checkpoints_pass_nothing_unheard(worker, data):
    """The worker has heard everything that a CHECKPOINT sees before that CHECKPOINT. So a
    recovery from there loses nothing."""
    xids = dict(data.database.sql("SELECT user_id, changed_xid::text::bigint FROM user_revisions"))
    heard = set()
    for frame in worker.frames:
        if isinstance(frame, Change):
            heard.add(frame.pubkey)
        elif isinstance(frame, Checkpoint):
            missed = [u for u, xid in xids.items() if sees(frame.checkpoint, xid) and u not in heard]
            assert missed == [], (missed, frame)


def test_a_checkpoint_never_passes_what_was_not_heard(hosts, data):
    """The worker has heard everything that a checkpoint sees, changes that were never
    notified included. Checked at every CHECKPOINT."""
    worker = subscriber(hosts[1])
    worker.passes(data)
    for n in range(60):
        data.write(f"u{n}")
        if n % 3:
            data.notify(f"u{n}")
        worker.pump(0.05)
    worker.passes(data)
    assert_checkpoints_pass_nothing_unheard(worker, data)


def test_a_change_is_announced_across_the_loss_of_the_upstream(start_relay, db, bouncer, data):
    """It was committed before the loss, and not announced yet. The checkpoint has not passed
    it, so it is recovered."""
    relay = start_relay(db, bouncer, **settings())
    worker = subscriber(relay)
    worker.passes(data)
    for n in range(2):
        data.write(f"silent{n}")
        worker.pump(n * INTERVAL / 2)
        db.terminate("pgherald upstream")
        worker.wait_until(lambda: f"silent{n}" in worker.pubkeys, "the change")
        worker.wait_until(lambda: worker.frames and "live" == [f.state for f in worker.frames if hasattr(f, "state")][-1],
                          "live")
    assert not worker.gaps
