"""The order of the faults. One seed is one sequence, whatever the machine's speed. The speed
only decides how far a run comes."""

import random
from typing import NamedTuple, Optional

from faults import ORDINARY, SEVERE
from rights import RIGHTS
from switches import SWITCHES

FAULTS = {f.__name__.replace("_", "-"): f for f in (*ORDINARY, *RIGHTS, *SWITCHES)}
SWITCH_NAMES = [f.__name__.replace("_", "-") for f in SWITCHES]
# how often in one round of all switches
OFTEN = {"failover-restart": 2}
# Faults during which no other fault is possible.
SEVERE_NAMES = {f.__name__.replace("_", "-") for f in SEVERE} | set(SWITCH_NAMES)
# After these no relay has a reason to announce anything again.
HARMLESS = {"freeze-worker", "kill-worker", "second-relay", "burst", "overrun", "long-transaction", "crowd", "jump-clock"}
BESIDE = ("freeze-worker", "kill-worker", "terminate-upstream", "burst")
FEW = 4        # names: with this few, each may come at any time
SWITCH_AFTER = (3, 5)  # other faults


class Step(NamedTuple):
    name: str
    seed: str
    beside: Optional[str]  # a second fault, at the same time
    recovers: bool         # whether to wait for the relays after it
    pause: float           # seconds, before the next


class Deck:
    """All of these names in some order, and then all again."""

    def __init__(self, rng, names):
        self._rng = rng
        self._names = list(names)
        self._left = []

    def draw(self):
        if not self._left:
            self._left = self._rng.sample(self._names, len(self._names))
        return self._left.pop()


def _names(rng, names):
    """So that even a short run has a fair selection: each name comes once before any comes
    again. A switch of servers, which takes longest, comes now and then."""
    switches = [name for name in names if name in SWITCH_NAMES]
    others = [name for name in names if name not in SWITCH_NAMES]
    if len(names) <= FEW:
        while True:
            yield rng.choice(names)
    ordinary = Deck(rng, others)
    deck = Deck(rng, [name for name in switches for _ in range(OFTEN.get(name, 1))])
    while True:
        for _ in range(rng.randint(*SWITCH_AFTER)):
            yield ordinary.draw()
        if switches:
            yield deck.draw()


def steps(seed, names):
    rng = random.Random(f"{seed}-plan")
    names = sorted(names)
    for number, name in enumerate(_names(rng, names)):
        beside = rng.choice([n for n in BESIDE if n in names] or [name])
        second = rng.random() < 0.25
        # one of the two must leave the other possible
        beside = beside if second and beside != name and name not in SEVERE_NAMES else None
        # What is away for ever longer is hit by nothing more; what has only just come back, at its weakest.
        recovers = rng.random() < 0.5
        yield Step(name, f"{seed}-{number}", beside, recovers and name in SEVERE_NAMES, rng.uniform(0.01, 1.2))
