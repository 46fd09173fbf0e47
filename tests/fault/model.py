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

FOLD_SECONDS = 30     # what is older, and was heard by all, is only counted
UNDONE_SECONDS = 5    # a worker that is killed forgets no more than this


class Committed(NamedTuple):
    user: str
    began: float  # when COMMIT was sent
    ended: float  # when it returned, or failed


class Model:
    def __init__(self):
        self._lock = threading.Lock()
        self._changes = []
        self._n_folded = 0
        self._awaited = {}       # user -> when its commit returned, of those that are notified at once
        self.began = time.monotonic()
        self.latencies = {}      # minute -> [seconds]
        self.kinds = Counter()   # of writes
        self.faults = Counter()  # as they happened
        self.errors = []         # what broke the model itself, or the protocol

    def committed(self, user, began, kind, notified=False):
        """notified: NOTIFY follows at once, so it counts for the latency."""
        with self._lock:
            ended = time.monotonic()
            self._changes.append(Committed(user, began, ended))
            self.kinds[kind] += 1
            if notified:
                self._awaited[user] = ended

    def came(self, user):
        """To the witness, live."""
        now = time.monotonic()
        with self._lock:
            ended = self._awaited.pop(user, None)
            if ended is not None:
                self.latencies.setdefault(int((ended - self.began) // 60), []).append(now - ended)

    def fault(self, name):
        with self._lock:
            self.faults[name] += 1

    def error(self, text):
        with self._lock:
            self.errors.append(text)

    @property
    def n_changes(self):
        return self._n_folded + len(self._changes)

    def changes(self):
        with self._lock:
            return list(self._changes)

    def fold(self, members):
        """Forget, but for their number, the changes that everyone to whom they are owed has heard. Else a long run would keep them
        all, and look at all of them again and again."""
        now = time.monotonic()
        covered = {m: max((at for at, _ in list(m.gaps) if at < now - UNDONE_SECONDS), default=0) for m in members}
        changes, kept = self.changes(), []
        for c in changes:
            owed = [m for m in members if m.is_owed(c, covered[m])]
            if c.ended > now - FOLD_SECONDS or not all(m.heard[c.user] > 0 for m in owed):
                kept.append(c)
                continue
            for m in members:
                m.fold(c.user, m in owed)
        with self._lock:
            self._n_folded += len(changes) - len(kept)
            self._changes[:len(changes)] = kept
            for user in [u for u, ended in self._awaited.items() if ended < now - FOLD_SECONDS]:
                del self._awaited[user]

    def owed(self, member, present):
        """The users that this member must have heard, of those the database has and which are not folded."""
        covered = max((at for at, _ in member.gaps), default=0)
        return {c.user for c in self.changes() if c.user in present and member.is_owed(c, covered)}


class Verdict(NamedTuple):
    lost: dict        # member -> users
    gaps: dict        # member -> texts of the GAPs that may not be
    allowed: int      # GAPs that a failover excuses
    report: str
    errors: list      # what else went wrong
    figures: dict     # what the report says, for programs
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
    lost, gaps, allowed, rows = {}, {}, 0, []
    known = {c.user for c in model.changes()}
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
        counts = member.heard.copy()
        # what was folded and came once more is a duplicate
        heard = member.n_heard_folded + sum(1 for user, n in counts.items() if n > 0 and user in known)
        deliveries = member.n_deliveries_folded + sum(counts.values())
        rows.append({"member": member.name, "owed": member.n_owed_folded + len(owed), "heard": heard, "deliveries": deliveries,
                     "duplicates": deliveries - heard, "recovered": member.n_recovered, "resumed": member.n_resumed,
                     "gaps": len(member.gaps), "lost": len(missing)})
    figures = {"changes": model.n_changes, "kinds": dict(model.kinds), "not_in_the_database": model.n_changes - len(present),
               "faults": dict(model.faults), "members": rows, "lost": sum(map(len, lost.values())),
               "gaps": sum(map(len, gaps.values())), "gaps_excused": allowed, "latency": latency_by_minute(model)}
    return Verdict(lost, gaps, allowed, "", model.errors, figures)


def latency_by_minute(model):
    """From the return of COMMIT, in the writer, until the witness has decoded the CHANGE: of what was notified at once and heard
    live. Both are threads of this driver, whose turn they wait for; so much of it is the driver's own."""
    rows = []
    for minute, seconds in sorted(model.latencies.items()):
        ordered = sorted(seconds)
        rows.append({"minute": minute + 1, "changes": len(ordered), "p50_ms": round(ordered[len(ordered) // 2] * 1e3, 2),
                     "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1e3, 2)})
    return rows
