"""What goes wrong. Each fault is a function of the system and of a random generator, and returns when it is over, or when
what it did needs no undoing."""

import os
import signal
import time

import psycopg2

from clock import jump
from procs import signal_all

# What leaves no other fault its footing.
SEVERE = {"restart-postgres", "crash-postgres", "freeze-postgres", "failover"}


def _kill(system, name):
    try:
        system.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (name,))
    except psycopg2.Error:
        pass  # the server is away; that fault is on already


def terminate_upstream(system, rng):
    _kill(system, "pgherald upstream")


def terminate_publisher(system, rng):
    _kill(system, "pgherald publisher")


def terminate_recovery(system, rng):
    """Until one was in the middle of it, or for a while."""
    end = time.monotonic() + rng.random() * 2
    while time.monotonic() < end:
        _kill(system, "pgherald recovery")
        time.sleep(0.05)


def restart_postgres(system, rng):
    system.postgres.stop("fast")
    time.sleep(rng.random() * 2)
    system.postgres.start()


def crash_postgres(system, rng):
    system.postgres.stop("immediate")
    time.sleep(rng.random() * 2)
    system.postgres.start()


def freeze_backend(system, rng):
    try:
        pids = [row[0] for row in system.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgherald%%'")]
    except psycopg2.Error:
        return
    if not pids:
        return
    pid = rng.choice(sorted(pids))
    try:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 6))
    finally:
        signal_all([pid], signal.SIGCONT)


def freeze_postgres(system, rng):
    try:
        system.postgres.freeze()
        time.sleep(rng.uniform(0.3, 6))
    finally:
        system.postgres.thaw()


def half_open(system, rng):
    """The steady relay's way to PostgreSQL swallows what is sent, and says nothing; then it is whole again, or ends."""
    try:
        system.way.freeze()
        time.sleep(rng.uniform(0.5, 9))
    finally:
        if rng.random() < 0.5:
            system.way.thaw()
        else:
            system.way.lead_to(system.postgres.port)


def freeze_relay(system, rng):
    relay = rng.choice(system.relays)
    try:
        relay.freeze()
        time.sleep(rng.uniform(0.3, 5))
    finally:
        relay.thaw()


def kill_relay(system, rng):
    relay = rng.choice(system.mortal)
    relay.kill()
    time.sleep(rng.random() * 1.5)
    system.start_relay(relay)


def stop_relay(system, rng):
    relay = rng.choice(system.mortal)
    relay.stop()
    time.sleep(rng.random())
    system.start_relay(relay)


def jump_clock(system, rng):
    """The wall clock of one relay, by up to a year; and back again some other time."""
    jump(system.jumper, rng.choice((0, -3600, 3600, -86400, 86400 * 365)))


def freeze_worker(system, rng):
    rng.choice(system.victims).freeze(rng.uniform(0.3, 4))


def kill_worker(system, rng):
    rng.choice(system.victims).kill()


def restart_bouncer(system, rng):
    system.bouncer.stop()
    time.sleep(rng.choice((0, 0.5, 2, 6)))
    system.bouncer.start()


def second_relay(system, rng):
    """It must be refused, and disturb nobody."""
    relay = rng.choice(system.relays)
    second = system.twin(relay)
    status = second.process.wait(20)
    assert status != 0, "a second relay on the same socket did not refuse to start"


def burst(system, rng):
    """Many changes at once, that nobody notifies."""
    system.burst(rng.choice((50, 500, 3000)))


def overrun(system, rng):
    """More notifications than the backlog holds, while a worker does not read."""
    rng.choice(system.victims).freeze(3)
    system.burst(5000, notify=True)


def long_transaction(system, rng):
    """It stays open over what comes next."""
    system.hold(rng.uniform(3, 20))


def failover(system, rng):
    """The standby misses the last of what the primary commits."""
    system.failover(rng.uniform(0.3, 2.5))


FAULTS = {f.__name__.replace("_", "-"): f for f in (
    terminate_upstream, terminate_publisher, terminate_recovery, half_open, restart_postgres, crash_postgres, freeze_backend,
    freeze_postgres, freeze_relay, kill_relay, stop_relay, jump_clock, freeze_worker, kill_worker, restart_bouncer, second_relay,
    burst, overrun, long_transaction, failover)}
