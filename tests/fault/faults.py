"""The faults. Each is a function of the system and of a random generator. It returns when
the fault is over, or when what it did needs no undoing."""

import os
import signal
import time

import psycopg2

from harness.clock import jump
from harness.procs import signal_all, wait_until


def terminate_upstream(system, rng):
    system.site.terminate("pgherald upstream")


def terminate_publisher(system, rng):
    system.site.terminate("pgherald publisher")


def terminate_recovery(system, rng):
    """Until one was killed in the middle of a recovery, or for a while."""
    end = time.monotonic() + rng.random() * 2
    while time.monotonic() < end:
        system.site.terminate("pgherald recovery")
        time.sleep(0.05)


def restart_postgres(system, rng):
    pause = rng.random() * 2
    system.site.start_again("fast", lambda: time.sleep(pause))


def crash_postgres(system, rng):
    pause = rng.random() * 2
    system.site.start_again("immediate", lambda: time.sleep(pause))


def crash_backend(system, rng):
    """PostgreSQL ends all other backends too, recovers as after a crash, and goes on as the
    same run of the server."""
    try:
        pids = system.site.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                               " AND pid <> pg_backend_pid()")
    except psycopg2.Error:
        return
    if pids:
        signal_all([rng.choice(sorted(pids))[0]], signal.SIGKILL)
        wait_until(system.site.answers, "PostgreSQL recovers", 30)


def freeze_backend(system, rng):
    try:
        pids = [row[0] for row in system.site.sql(
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
        system.site.postgres.freeze()
        time.sleep(rng.uniform(0.3, 6))
    finally:
        system.site.postgres.thaw()


def half_open(system, rng):
    """The steady relay's way to PostgreSQL swallows what is sent, without an error. Then it
    works again, or is cut."""
    try:
        system.site.way.freeze()
        time.sleep(rng.uniform(0.5, 9))
    finally:
        if rng.random() < 0.5:
            system.site.way.thaw()
        else:
            system.site.way.lead_to(system.site.postgres.port)


def freeze_relay(system, rng):
    relay = rng.choice(system.hosts.all)
    try:
        relay.freeze()
        time.sleep(rng.uniform(0.3, 5))
    finally:
        relay.thaw()


def kill_relay(system, rng):
    relay = rng.choice(system.hosts.mortal)
    relay.kill()
    time.sleep(rng.random() * 1.5)
    system.start_relay(relay)


def stop_relay(system, rng):
    relay = rng.choice(system.hosts.mortal)
    relay.stop()
    time.sleep(rng.random())
    system.start_relay(relay)


def jump_clock(system, rng):
    """Make the wall clock of one relay jump, by up to a year, and back again at some other
    time."""
    jump(system.hosts.jumper, rng.choice((0, -3600, 3600, -86400, 86400 * 365)))


def freeze_worker(system, rng):
    rng.choice(system.victims).freeze(rng.uniform(0.3, 4))


def kill_worker(system, rng):
    rng.choice(system.victims).kill()


def restart_bouncer(system, rng):
    system.site.bouncer.stop()
    time.sleep(rng.choice((0, 0.5, 2, 6)))
    system.site.bouncer.start()


def second_relay(system, rng):
    """A second relay on the same socket: it must be refused, and disturb nothing."""
    relay = rng.choice(system.hosts.all)
    second = system.twin(relay)
    status = second.process.wait(20)
    assert status != 0, "a second relay on the same socket did not refuse to start"


def burst(system, rng):
    """Many changes at once without a NOTIFY."""
    system.driver.burst(rng.choice((50, 500, 3000)), rng)


def overrun(system, rng):
    """More notifications than the backlog holds, while a worker does not read."""
    rng.choice(system.victims).freeze(3)
    system.driver.burst(5000, rng, notify=True)


def long_transaction(system, rng):
    """A transaction that stays open over the faults that follow."""
    system.driver.hold(rng.uniform(3, 20), rng)


def crowd(system, rng):
    """Snapshots that are too long for a checkpoint."""
    system.driver.crowd(rng.uniform(3, 6), rng)


ORDINARY = (terminate_upstream, terminate_publisher, terminate_recovery, half_open, restart_postgres, crash_postgres,
            crash_backend, freeze_backend, freeze_postgres, freeze_relay, kill_relay, stop_relay, jump_clock,
            freeze_worker, kill_worker, restart_bouncer, second_relay, burst, overrun, long_transaction, crowd)
SEVERE = (restart_postgres, crash_postgres, crash_backend, freeze_postgres)
