"""A server that answers with other rows than the relay asked for ends no relay and fills no
memory. Once it is honest again, everything works."""

import pytest

from lying import LIES, survives
from harness.procs import wait_until
from harness.subscriber import subscriber
from harness.worker import CHANNEL, NOTIFY, Ok, pack

# A piece of each statement that returns a row: of a turn, and of publishing.
TURNS = ["'pgherald2'", "SELECT pg_catalog.pg_current_snapshot()"]
BATCH = "unnest($1"


@pytest.mark.parametrize("how", LIES)
def test_the_statements_of_a_turn(deceived, liar, recoverable, how):
    host = deceived(PGHERALD_CHECKPOINT_INTERVAL="0.2").start()
    for fragment in TURNS:
        survives(host, liar, recoverable, fragment, how, lambda: recoverable.change("busy"))


@pytest.mark.parametrize("how", LIES)
def test_the_statement_that_publishes(deceived, liar, recoverable, how):
    host = deceived(PGHERALD_CHECKPOINT_INTERVAL="0.2").start()
    worker = host.worker()

    def provoke():
        for n in range(20):
            worker.ask(3, CHANNEL, f"published{n}", None)
    survives(host, liar, recoverable, BATCH, how, provoke)


def test_a_pooler_that_passes_on_only_the_first_of_several_statements(deceived, liar, recoverable):
    """What it drops is not answered with OK, but published once more, so that all is heard."""
    worker = subscriber(deceived().start())
    liar.lie("NOTIFY ", "first-alone")
    users = [f"u{n}" for n in range(5)]
    worker.ask_raw(b"".join(pack(NOTIFY, 100 + n, CHANNEL, user, None) for n, user in enumerate(users)),
                   range(100, 100 + len(users)))
    worker.hears_all(users)
    assert all(isinstance(worker.answer(100 + n), Ok) for n in range(len(users)))
    assert liar.told == 1
    worker.publish("after")
    worker.hears("after")


@pytest.mark.parametrize("how", ["no-row", "one-column", "nulls", "two-rows", "nothing"])
def test_the_statement_about_an_earlier_run(deceived, liar, recoverable, own_pg, how):
    """Whatever it answers, what was written meanwhile is recovered or a gap."""
    worker = subscriber(deceived(PGHERALD_CHECKPOINT_INTERVAL="0.2").start())
    worker.passes(recoverable)
    liar.lie("pgherald.server_run WHERE", how)
    own_pg.stop("fast")
    own_pg.start()
    recoverable.write("missed")
    wait_until(lambda: liar.told > 0, "the question about the run", 60)
    liar.honest()
    worker.wait_until(lambda: "missed" in worker.pubkeys or worker.gaps, "the change or a gap", 60)
    recoverable.change("after")
    worker.hears("after")


def test_a_queue_with_forgotten_transactions(deceived, liar, recoverable):
    """PostgreSQL removes them from its queue when somebody asks how full that is."""
    liar.lie("LISTEN ", "forgets")
    relay = deceived().start()
    assert liar.told == 1
    worker = subscriber(relay)
    recoverable.change("u")
    worker.hears("u")
    assert "asked for its usage" in relay.log()


@pytest.mark.parametrize("how", ["no-row", "one-column", "nulls", "two-rows", "nothing"])
def test_a_lie_at_the_start(deceived, liar, recoverable, how):
    """The start is refused with one line, or succeeds."""
    for fragment in ("pg_is_in_recovery", TURNS[0]):
        liar.lie(fragment, how)
        relay = deceived()
        relay.launch().settles()
        if relay.process.poll() is not None:
            assert relay.process.returncode == 1 and len(relay.lines("ERROR")) == 1, relay.log()
        liar.honest()
