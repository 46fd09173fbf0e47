"""What an operator does to a relay's role and to the recovery function while the service
runs."""

import time

import psycopg2

from excuses import SOON
from harness.procs import wait_until

TAKES_OVER = 20  # seconds: another relay must have taken over well before
ASKS = 4         # seconds until a relay that is back asks what it missed


def _a_leader(system, rng):
    """The relay that leads, if it may ask; otherwise any that may ask."""
    system.await_relays()
    able = [host for host in system.hosts if host.answers] or [host for host in system.hosts if host.rights.tables]
    for host in able:
        if host.epoch() == system.ear.leader:
            return host
    return rng.choice(able)


def _another_takes_over(system, host, what):
    """The relays that are not alone in answering announce and pass what is committed now."""
    since = time.monotonic()
    try:
        # without reconciliation, only notifications move checkpoints
        system.driver.one_each("takeover", "while a relay is hindered", notify=not system.hosts.n_leaders())
        moment = system.site.moment()
    except psycopg2.Error:
        return  # another fault is active
    end = since + TAKES_OVER
    led = system.hosts.led(but=host)
    while stands := [h for h in led if not system.passed(h, moment, since)]:
        system.take()
        if time.monotonic() > end:
            for h in stands:
                system.model.stand(f"{h.name} passes no checkpoint for {TAKES_OVER} s, while {host.name} {what}")
            return
        time.sleep(0.05)


def revoke_select(system, rng):
    """A relay cannot ask for a while. Its own workers have a gap if it misses something
    meanwhile. No other relay's may."""
    host = _a_leader(system, rng)
    excuse = system.excuses.add("a role that may not read", [host], times=10, grace=SOON)
    system.site.revoke(host.role)
    try:
        _another_takes_over(system, host, "may not read the tables")
        time.sleep(rng.uniform(0, 2))
    finally:
        system.site.grant(host.role)
        excuse.close()


def connection_limit(system, rng):
    """A relay's role has no connection left for questions."""
    host = _a_leader(system, rng)
    system.site.terminate("pgherald recovery", host.role)
    left = system.site.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND application_name <> 'pgherald recovery'",
                           (host.role,))[0][0]
    system.site.sql(f"ALTER ROLE {host.role} CONNECTION LIMIT {left}")
    try:
        system.site.terminate("pgherald recovery", host.role)
        _another_takes_over(system, host, "has no connection left for questions")
        time.sleep(rng.uniform(0, 2))
    finally:
        system.site.sql(f"ALTER ROLE {host.role} CONNECTION LIMIT -1")


def statement_timeout(system, rng):
    """The statement_timeout of a relay's role is enough for all statements except a recovery
    that waits: another session changes the table."""
    host = rng.choice([host for host in system.hosts if host.rights.tables])
    milliseconds = rng.choice((50, 100, 250))
    system.await_relays()
    system.site.sql(f"ALTER ROLE {host.role} SET statement_timeout = '{milliseconds}ms'")
    try:
        with system.driver.table_locked():
            system.site.terminate(None, host.role)  # it holds for new connections
            _await_question(system, host.role)
            time.sleep(milliseconds / 1000 * 2)
    except psycopg2.errors.LockNotAvailable:
        pass  # a long transaction is open
    finally:
        system.site.sql(f"ALTER ROLE {host.role} RESET statement_timeout")
        system.site.terminate(None, host.role)


def _await_question(system, role):
    """Until a recovery of this role waits for the table, or for a while."""
    end = time.monotonic() + ASKS
    while time.monotonic() < end and not system.site.sql(
            "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
            " AND application_name = 'pgherald recovery'", (role,)):
        time.sleep(0.02)


def migration(system, rng):
    """recovery.sql is removed and installed again, under load. Meanwhile an outage is a gap,
    and no relay finds what was not notified. What was committed before and is not announced
    yet must still be announced. Relays find the function again when they reconnect."""
    between = rng.uniform(0, 2)
    reconnects = rng.random() < 0.5  # a relay that reconnects meanwhile finds no function
    host = rng.choice(system.hosts.all)
    excuse = system.excuses.add("recovery that is not installed", system.hosts, times=5, grace=SOON)
    began = time.monotonic()
    try:
        system.site.take_down_recovery()
        if reconnects:
            system.site.terminate("pgherald upstream", host.role)
        time.sleep(between)
    finally:
        system.site.install_recovery()
        for host in system.hosts:
            host.asked("reconnect")
        wait_until(system.all_listen, "the relays are back", 30)
        excuse.close()
        system.model.unrecorded(began, time.monotonic())


RIGHTS = (revoke_select, connection_limit, statement_timeout, migration)
