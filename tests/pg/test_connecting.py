"""The thread in which the relay connects: it succeeds, fails, is no longer awaited, or
outlives the relay. tests/run runs this file under the thread sanitizer, which reports races
between thread and loop."""

import os
import signal

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.subscriber import resumed, subscriber

TIMES = 5


class Deaf:
    """The server accepts connections and does not answer. Existing connections go on."""

    def __init__(self, server, relay):
        self.server = server
        self.relay = relay
        self._threads = self._count()
        server.process.send_signal(signal.SIGSTOP)

    def _count(self):
        return len(os.listdir(f"/proc/{self.relay.process.pid}/task"))

    def keeps_waiting(self, count=1):
        wait_until(lambda: self._count() == self._threads + count, f"{count} threads are connecting")

    def answers(self):
        self.server.process.send_signal(signal.SIGCONT)


@pytest.fixture
def relay(make_relay, own_db):
    return make_relay(DATABASE_DIRECT_URL=own_db.direct_url, PGHERALD_CHECKPOINT_INTERVAL="0.25").start()


def kill_backend(db, name):
    """Kill it without asking the server, which may not answer."""
    backend, = db.backends(name)
    return lambda: os.kill(backend, signal.SIGTERM)


def test_it_connects_again_and_again(relay, own_db):
    worker = relay.worker()
    for n in range(TIMES):
        seen = len(worker.frames)
        own_db.terminate("pgherald upstream")
        own_db.terminate("pgherald publisher")
        worker.sees("down", seen)
        worker.sees("live", seen)
        worker.publish(f"u{n}")
        worker.hears(f"u{n}")


def test_it_cannot_connect(relay, own_pg):
    worker = relay.worker()
    for n in range(2):
        seen, warned = len(worker.frames), len(relay.lines("WARNING"))
        own_pg.stop("immediate")
        worker.sees("down", seen)
        wait_until(lambda: len(relay.lines("WARNING")) >= warned + 4, "both have failed to connect")
        own_pg.start()
        worker.sees("live", seen)
        worker.publish(f"u{n}")
        worker.hears(f"u{n}")


def test_nobody_waits_any_more_for_what_is_connecting(run, relay, own_pg, own_db):
    """A worker's catch-up is connecting when the upstream is lost, which ends it. It is done
    again later."""
    data = DataSync(run, own_db).recoverable()
    own_db.terminate("pgherald upstream")  # it looks for the function when it connects
    worker = subscriber(relay)
    worker.sees("live")
    cursor = ("an epoch long ago", 1, worker.passes(data, notify="before"))
    data.change("missed")
    kill = kill_backend(own_db, "pgherald upstream")
    deaf = Deaf(own_pg, relay)
    late = resumed(relay, cursor, wait=False)
    deaf.keeps_waiting()
    seen = len(worker.frames)
    kill()
    worker.sees("down", seen)
    deaf.answers()
    worker.sees("live", seen)
    late.caught_up()
    assert "missed" in late.pubkeys and not late.gaps
    wait_until(lambda: not own_db.backends("pgherald recovery"), "the connection that nobody waited for is gone")


@pytest.mark.parametrize("name", ["pgherald upstream", "pgherald publisher"])
def test_the_relay_ends_before_it_is_connected(relay, own_pg, own_db, name):
    worker = relay.worker()
    kill = kill_backend(own_db, name)
    deaf = Deaf(own_pg, relay)
    kill()
    deaf.keeps_waiting()
    relay.stop()
    assert worker.bye().code == "shutdown"
    deaf.answers()
    wait_until(lambda: not own_db.backends(name), "PostgreSQL has nobody connected")
