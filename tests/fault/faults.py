"""What goes wrong. Each fault is a function of the system and of a random generator, and returns when it is over, or when
what it did needs no undoing."""

import os
import signal
import time

import psycopg2

from procs import signal_all

SEVERE = {"restart-postgres", "freeze-postgres", "failover"}


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


def freeze_relay(system, rng):
    relay = rng.choice(system.relays)
    try:
        relay.freeze()
        time.sleep(rng.uniform(0.3, 5))
    finally:
        relay.thaw()


def kill_relay(system, rng):
    relay = rng.choice(system.relays)
    relay.kill()
    time.sleep(rng.random() * 1.5)
    system.start_relay(relay)


def stop_relay(system, rng):
    relay = rng.choice(system.relays)
    relay.stop()
    time.sleep(rng.random())
    system.start_relay(relay)


def freeze_worker(system, rng):
    rng.choice(system.members).freeze(rng.uniform(0.3, 4))


def kill_worker(system, rng):
    rng.choice(system.members).kill()


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


def failover(system, rng):
    """At most once. The standby misses the last of what the primary commits."""
    system.failover(rng.uniform(0.3, 2.5))


FAULTS = {f.__name__.replace("_", "-"): f for f in (
    terminate_upstream, terminate_publisher, terminate_recovery, restart_postgres, freeze_backend, freeze_postgres,
    freeze_relay, kill_relay, stop_relay, freeze_worker, kill_worker, restart_bouncer, second_relay, burst, failover)}
