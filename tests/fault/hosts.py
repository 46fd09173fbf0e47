"""The relays of a run, each on a host, and the differences between them."""

import os
import time

from harness.clock import jumping_clock, with_jumping_clock
from harness.relay import Relay
from database import OTHERS, Rights
from harness.ops import Operator, objects
from harness.worker import CHANNEL

# The differences between the relays of a run, selected by name like faults.
CONDITIONS = {
    "channels": "relays have different channels, and of some two neither has all of the other's",
    "intervals": "relays have different checkpoint intervals",
    "unreconciled": "one more relay has PGHERALD_RECONCILE=no",
    "nobody-reconciles": "all relays have it",
    "powerless": "one more relay has a role that may not read the tables",
    "keyless": "one more relay has a role that may not read the key by which relays believe each other",
    "tracked": "changes are writes to tables that pgherald.track() tracks, deletes and changed keys among them",
    "trickle": "one more worker reads at the pace of 2 ms a change, and is never hurried",
}

# How often a run has each, if it is not told which.
OFTEN = {"nobody-reconciles": 0.1, "tracked": 0.5}
USUALLY = 0.7

# Under valgrind a relay is slow, and would lose the lead in a short interval.
SLOWNESS = 3 if os.environ.get("PGHERALD_LAUNCHER") else 1
INTERVAL = 0.5 * SLOWNESS
INTERVALS = tuple(round(seconds * SLOWNESS, 1) for seconds in (0.4, 0.6, 1.0, 1.6))
UNRECONCILED_INTERVAL = 3 * SLOWNESS  # a change that is notified sooner must not be lost
ALL = (CHANNEL, *OTHERS)
ORDERS, TICKETS = (CHANNEL, OTHERS[0]), (CHANNEL, OTHERS[1])
# for the two that are killed now and then, and for the steady one
CHANNEL_SETS = (
    (ORDERS, TICKETS, ALL),
    (ORDERS, TICKETS, (CHANNEL,)),
    (ORDERS, ALL, OTHERS),
    (ALL, ORDERS, TICKETS),
    (OTHERS, ORDERS, TICKETS),
)


def chosen(rng):
    """The differences between the relays, if the run is not told any."""
    return [name for name in sorted(CONDITIONS) if rng.random() < OFTEN.get(name, USUALLY)]


class Host(Relay):
    """channels: the ones it is configured for. reconciles: whether it may announce changes
    that were never notified."""

    def __init__(self, run, name, role, rights, channels, interval, urls, reconciles=True, **environment):
        super().__init__(run, "relay", DATABASE_URL=urls[0], DATABASE_DIRECT_URL=urls[1],
                         PGHERALD_CHANNELS=",".join(channels), PGHERALD_CHECKPOINT_INTERVAL=str(interval),
                         PGHERALD_RECONCILE="yes" if reconciles else "no", **environment)
        self.name = name
        self.role = role
        self.rights = rights
        self.channels = channels
        self.interval = interval
        self.reconciles = reconciles
        self.started_at = 0

    def launch(self):
        self.started_at = time.monotonic()
        return super().launch()

    @property
    def answers(self):
        """Whether it can lead."""
        return self.reconciles and self.rights.tables

    def asked(self, line):
        """What it tells an operator; None if it does not answer."""
        try:
            operator = Operator(self)
            try:
                return operator.asks(line)
            finally:
                operator.close()
        except (OSError, AssertionError):
            return None

    def __str__(self):
        """Its differences from the others."""
        lacks = [] if self.reconciles else ["does not reconcile"]
        lacks += [f"may not read the {what}" for what, may in self.rights._asdict().items() if not may]
        return ", ".join([f"{self.name}: {' '.join(self.channels)}, every {self.interval} s", *lacks])

    def epoch(self):
        status = self.asked("status json")
        return status and objects(status)[0]["epoch"]


def roles_of(names):
    """{role of a relay: its rights}"""
    roles = {"relay0": Rights(), "relay1": Rights(), "relay2": Rights()}
    if "unreconciled" in names:
        roles["relay3"] = Rights()
    if "powerless" in names:
        roles["relay4"] = Rights(tables=False)
    if "keyless" in names:
        roles["relay5"] = Rights(key=False)
    return roles


class Hosts:
    """Three hosts, and some more. Two are killed now and then: one publishes through the
    pool; the other publishes directly, and its wall clock jumps. The third reaches
    PostgreSQL by a way that can swallow what is sent. It lives as long as the run, so it
    shows what grows."""

    def __init__(self, run, site, rng, names, roles, environment):
        sets = rng.choice(CHANNEL_SETS) if "channels" in names else ((CHANNEL,),) * 3
        intervals = rng.sample(INTERVALS, 3) if "intervals" in names else (INTERVAL,) * 3
        all_reconcile = "nobody-reconciles" not in names
        if not all_reconcile:
            intervals = (UNRECONCILED_INTERVAL,) * 3

        def make(number, name, urls, **options):
            role = f"relay{number}"
            return Host(run, name, role, roles[role], urls=[url(role) for url in urls], **options, **environment)
        pool, direct, way = site.pool_url, site.direct_url, site.way_url
        ways = ((pool, direct), (direct, direct), (pool, way))
        self.all = [make(n, ("relay 0", "relay 1", "relay, steady")[n], ways[n], channels=sets[n], interval=intervals[n],
                         reconciles=all_reconcile)
                    for n in range(3)]
        self.steady, self.jumper = self.all[2], self.all[1]
        self.first = self.all[:2]
        if "unreconciled" in names:
            self.all.append(make(3, "relay, unreconciled", (direct, direct), channels=rng.choice(sets),
                                 interval=UNRECONCILED_INTERVAL, reconciles=False))
        if "powerless" in names:
            self.all.append(make(4, "relay, powerless", (pool, direct), channels=rng.choice(sets),
                                 interval=intervals[0], reconciles=all_reconcile))
        if "keyless" in names:
            self.all.append(make(5, "relay, keyless", (direct, direct), channels=rng.choice(sets),
                                 interval=intervals[1], reconciles=all_reconcile))
        self.mortal = [host for host in self.all if host is not self.steady]
        if "jump-clock" in names:
            with_jumping_clock(self.jumper, jumping_clock(run))

    def _leaders(self, but=None):
        """When all are well, among those that believe each other: the sets of channels of
        the relays for which no other answers."""
        sets = {frozenset(h.channels) for h in self.all if h.answers and h.rights.key and h is not but}
        return {s for s in sets if not any(s < other for other in sets)}

    def n_leaders(self):
        """How many relays at most announce the same change, when all are well."""
        return len(self._leaders()) + sum(1 for h in self.all if h.answers and not h.rights.key)

    def led(self, but=None):
        """Relays for which another than this one answers, or which need none."""
        leaders = self._leaders(but)
        return [h for h in self.all if h is not but and (not h.reconciles or not h.rights.key and h.answers
                                                         or any(set(h.channels) <= s for s in leaders))]

    def __iter__(self):
        return iter(self.all)
