"""Another server replaces the one that accepted writes, and lacks some of what that one had."""

import os
import time

from database import Barred, lsn_of
from harness.failover import Forward
from harness.procs import wait_until

FEW = 40    # changes that the next server commits before any relay sees it
LOOKS = 8   # seconds: how long a new server waits for relays to come


def _loses(system, what):
    """Call it before the next server's history ends. It excuses a GAP that nothing could
    have avoided: a relay without a checkpoint from before, of this run of the server, has
    nothing to go back to."""
    return system.excuses.add(what, [host for host in system.hosts if not system.knows(host)])


def _promote(server):
    server.sql("SELECT pg_promote()")
    wait_until(lambda: not server.sql("SELECT pg_is_in_recovery()")[0][0], "the promotion")


def _write_past(system, server, lsn, rng):
    """Changes that relays must find, with transaction ids and log positions that the last
    server had used too. lsn: the last server's. Writers come back with these changes, while
    relays are still kept out."""
    system.site.postgres = server
    system.driver.few(FEW, rng)
    while _last_lsn(server) <= lsn:
        server.sql("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 100000))")
    system.driver.few(FEW, rng)


def _last_lsn(server):
    return lsn_of(server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])


def failover(system, rng):
    """The standby misses the last changes that the primary commits."""
    _fail_over(system, rng, "a failover")


def failover_restart(system, rng):
    """The new primary is restarted before any relay has seen it, so it has forgotten where
    its timeline began."""
    _fail_over(system, rng, "a failover", rng.choice(("fast", "immediate")))


def _fail_over(system, rng, what, restart=None):
    site, behind = system.site, rng.uniform(0.3, 2.5)
    pair = site.with_standby()
    excuse = _loses(system, what)
    pair.in_step()
    pair.cut()
    time.sleep(behind)  # the primary goes on alone
    if restart:
        with Barred(pair.standby):
            server = pair.fail_over()
            server.restart(restart)
            site.lead_to(server)
    else:
        site.lead_to(pair.fail_over())
    pair.way.close()
    pair.primary.close()
    excuse.close()
    system.switched()


def double_failover(system, rng):
    """The standby is promoted, and dies. Another standby, which never heard of that
    promotion, is promoted too, and gives its timeline the same number."""
    site, apart, longer = system.site, rng.uniform(0.2, 1), rng.uniform(0.2, 1)
    pair = site.with_standby()
    first, second = pair.primary, pair.standby
    third, way = site.server(site.spare_port(second.port)), Forward(site.run, first.port)
    try:
        first.copy(third, way.port)
        third.start()
        # relays that connect to the second server get checkpoints of it, which the third does not know
        excuse = system.excuses.add("a double failover", system.hosts)
        way.close()
        time.sleep(apart)
        pair.in_step()
        pair.cut()
        site.lead_to(pair.fail_over())
        _wait_for_some(system)
        time.sleep(longer)
        lsn = _last_lsn(second)
        with Barred(third):
            second.stop("immediate")
            _promote(third)
            _write_past(system, third, lsn, rng)
            site.lead_to(third)
    finally:
        way.close()
        pair.way.close()
    first.close()
    second.close()
    excuse.close()
    system.switched()


def _wait_for_some(system):
    """Until a relay has a checkpoint of the server as it is now, or for a while."""
    end = time.monotonic() + LOOKS
    while time.monotonic() < end and not any(system.knows(host) for host in system.hosts):
        system.take()
        time.sleep(0.05)


def set_back(system, rng):
    """The disk is set back to an earlier copy: the same timeline, on which other changes are
    written now. Before any relay is back, the server is past what the checkpoints know."""
    site, goes_on = system.site, rng.uniform(1, 4)
    old = site.postgres
    copy = site.server(old.port)
    excuse = _loses(system, "a disk that was set back")
    old.copy(copy)
    end = time.monotonic() + goes_on
    while time.monotonic() < end:  # checkpoints of this time will be undone
        system.take()
        time.sleep(0.05)
    lsn = _last_lsn(old)
    old.stop("immediate")
    with Barred(copy):
        copy.start()
        _write_past(system, copy, lsn, rng)
        site.lead_to(copy)
    old.close()
    excuse.close()
    system.switched()


SWITCHES = (failover, failover_restart, double_failover, set_back)
