"""What must be heard, kept beside the system: who committed what when, who was subscribed when, who heard what.

A change is a user id that no other change has, so that "heard" has one meaning: the id came, at any time after its
commit began. (In a service a hint says "something of this user's changed", and one hint heard after the commit of
revision r covers all up to r. With one change a user the two are the same. And reconciliation, which sees a user once in
an interval however many changes it had, is asked for each.)

A member (a worker of the model) is owed each change of its users whose COMMIT was sent after its subscription was live,
if the database has it at the end. What a failover took away, or a commit of which nobody knows whether it happened, is
owed if and only if the database has it. A GAP covers whatever was committed before it came: an application reads
everything then. Where recovery is installed, no GAP may come but after a failover that cannot be exact.
"""

import threading
import time
from collections import Counter
from typing import NamedTuple


class Committed(NamedTuple):
    user: str
    began: float  # when COMMIT was sent
    ended: float  # when it returned, or failed


class Model:
    def __init__(self):
        self._lock = threading.Lock()
        self._changes = []
        self.kinds = Counter()   # of writes
        self.faults = Counter()  # as they happened
        self.errors = []         # what broke the model itself, or the protocol

    def committed(self, user, began, kind):
        with self._lock:
            self._changes.append(Committed(user, began, time.monotonic()))
            self.kinds[kind] += 1

    def fault(self, name):
        with self._lock:
            self.faults[name] += 1

    def error(self, text):
        with self._lock:
            self.errors.append(text)

    @property
    def n_changes(self):
        return len(self._changes)

    def changes(self):
        with self._lock:
            return list(self._changes)

    def owed(self, member, present):
        """The users that this member must have heard, of those the database has."""
        if member.subscribed_at is None:
            return set()
        covered = max((at for at, _ in member.gaps), default=0)
        return {c.user for c in self.changes()
                if c.began > member.subscribed_at and c.ended > covered and c.user in present and member.wants(c.user)}


class Verdict(NamedTuple):
    lost: dict        # member -> users
    gaps: dict        # member -> texts of the GAPs that may not be
    allowed: int      # GAPs that a failover excuses
    report: str
    errors: list      # what else went wrong
    details: str = ""

    @property
    def good(self):
        return not self.lost and not self.gaps and not self.errors

    @property
    def n_lost(self):
        return sum(len(users) for users in self.lost.values())

    @property
    def n_gaps(self):
        return sum(len(texts) for texts in self.gaps.values())


EXCUSED = ("failover", "future")  # in a GAP's text: the checkpoint was beyond what the new primary had


def judge(model, members, present, failed_over):
    """The end: hold what was heard against what was owed."""
    lost, gaps, allowed = {}, {}, 0
    lines = [f"{'member':<16}{'owed':>8}{'heard':>8}{'deliveries':>12}{'duplicates':>12}{'recovered':>11}{'resumed':>9}"
             f"{'gaps':>6}{'lost':>6}"]
    for member in members:
        owed = model.owed(member, present)
        missing = {user for user in owed if not member.heard[user]}
        bad = []
        for _, text in member.gaps:
            if failed_over and any(word in text for word in EXCUSED):
                allowed += 1
            else:
                bad.append(text)
        if missing:
            lost[member.name] = missing
        if bad:
            gaps[member.name] = bad
        deliveries = sum(member.heard.values())
        heard = sum(1 for n in member.heard.values() if n > 0)
        lines.append(f"{member.name:<16}{len(owed):>8}{heard:>8}{deliveries:>12}{deliveries - heard:>12}"
                     f"{member.n_recovered:>11}{member.n_resumed:>9}{len(member.gaps):>6}{len(missing):>6}")
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(model.kinds.items()))
    faults = ", ".join(f"{n} {name}" for name, n in sorted(model.faults.items()))
    undone = sum(1 for c in model.changes() if c.user not in present)
    head = [f"changes: {model.n_changes} ({kinds}); not in the database at the end: {undone}", f"faults: {faults}"]
    tail = [f"lost: {sum(map(len, lost.values()))}, gaps: {sum(map(len, gaps.values()))}"
            + (f" and {allowed} that the failover excuses" if failed_over else "")]
    return Verdict(lost, gaps, allowed, "\n".join(head + lines + tail), model.errors)
