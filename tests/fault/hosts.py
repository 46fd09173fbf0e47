"""The relays of a run, a host each, and what sets one apart from another."""

import time

from clock import jumping_clock, with_jumping_clock
from relay import Relay
from database import OTHERS
from ops import Operator, objects
from worker import CHANNEL

# What a run's relays differ in, chosen as faults are: by name.
CONDITIONS = {
    "channels": "relays have different channels, and of some two neither has all of the other's",
    "intervals": "relays have different checkpoint intervals",
    "unreconciled": "one more relay has PGHERALD_RECONCILE=no",
    "nobody-reconciles": "all relays have it",
    "powerless": "one more relay has a role that may not read the tables",
    "trickle": "one more worker reads at the pace of 2 ms a change, and is never hurried",
}

# How often a run has it that is told nothing.
OFTEN = {"nobody-reconciles": 0.1}
USUALLY = 0.7

INTERVAL = 0.5
INTERVALS = (0.4, 0.6, 1.0, 1.6)
UNRECONCILED_INTERVAL = 3  # whatever is notified sooner must not be lost
ALL = (CHANNEL, *OTHERS)
ORDERS, TICKETS = (CHANNEL, OTHERS[0]), (CHANNEL, OTHERS[1])
# of the two that are killed now and then, and of the steady one
CHANNEL_SETS = (
    (ORDERS, TICKETS, ALL),
    (ORDERS, TICKETS, (CHANNEL,)),
    (ORDERS, ALL, OTHERS),
    (ALL, ORDERS, TICKETS),
    (OTHERS, ORDERS, TICKETS),
)


def chosen(rng):
    """What the relays of a run differ in that is told nothing."""
    return [name for name in sorted(CONDITIONS) if rng.random() < OFTEN.get(name, USUALLY)]


class Host(Relay):
    """channels: what it is configured for. reconciles, may_ask: whether it is let announce what nobody notified, and can."""

    def __init__(self, run, name, role, channels, interval, urls, reconciles=True, may_ask=True, **environment):
        super().__init__(run, "relay", DATABASE_URL=urls[0], DATABASE_DIRECT_URL=urls[1],
                         PGHERALD_CHANNELS=",".join(channels), PGHERALD_CHECKPOINT_INTERVAL=str(interval),
                         PGHERALD_RECONCILE="yes" if reconciles else "no", **environment)
        self.name = name
        self.role = role
        self.channels = channels
        self.interval = interval
        self.reconciles = reconciles
        self.may_ask = may_ask
        self.started_at = 0

    def launch(self):
        self.started_at = time.monotonic()
        return super().launch()

    @property
    def answers(self):
        """Whether it can lead."""
        return self.reconciles and self.may_ask

    def asked(self, line):
        """What it tells an operator, or None when it does not answer."""
        try:
            operator = Operator(self)
            try:
                return operator.asks(line)
            finally:
                operator.close()
        except (OSError, AssertionError):
            return None

    def epoch(self):
        status = self.asked("status json")
        return status and objects(status)[0]["epoch"]


def roles_of(names):
    """{role of a relay: whether it may read the tables}"""
    roles = {"relay0": True, "relay1": True, "relay2": True}
    if "unreconciled" in names:
        roles["relay3"] = True
    if "powerless" in names:
        roles["relay4"] = False
    return roles


class Hosts:
    """Three. Two are killed now and then: one publishes through the pool; the other directly, and its wall clock jumps. The
    third, which reaches PostgreSQL by a way that can swallow what is sent, lives as long as the run, so that it shows what
    grows. And some more."""

    def __init__(self, run, site, rng, names, environment):
        sets = rng.choice(CHANNEL_SETS) if "channels" in names else ((CHANNEL,),) * 3
        intervals = rng.sample(INTERVALS, 3) if "intervals" in names else (INTERVAL,) * 3
        all_reconcile = "nobody-reconciles" not in names
        if not all_reconcile:
            intervals = (UNRECONCILED_INTERVAL,) * 3

        def make(number, name, urls, **options):
            return Host(run, name, f"relay{number}", urls=[url(f"relay{number}") for url in urls], **options, **environment)
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
                                 interval=intervals[0], reconciles=all_reconcile, may_ask=False))
        self.mortal = [host for host in self.all if host is not self.steady]
        if "jump-clock" in names:
            with_jumping_clock(self.jumper, jumping_clock(run))

    def leaders(self, but=None):
        """Those whose turns nobody else's can stand for, when all are well: of the ones that answer for channels, those whose
        channels no other has with more."""
        able = [host for host in self.all if host.answers and host is not but]
        sets = {frozenset(host.channels) for host in able}
        return {s for s in sets if not any(s < other for other in sets)}

    def led(self, but=None):
        """Those for whom somebody other than this one answers, or who need nobody."""
        leaders = self.leaders(but)
        return [host for host in self.all if host is not but
                and (not host.reconciles or any(set(host.channels) <= s for s in leaders))]

    def __iter__(self):
        return iter(self.all)
