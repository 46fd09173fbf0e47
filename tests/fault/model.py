"""What must be heard, kept next to the system: who committed what when, who was subscribed
when, who heard what.

A change is a user id that no other change has. So "heard" has one meaning: the id came, at any
time after its commit began. (In a service a hint says "something of this user's changed", and
one hint heard after the commit of revision r covers all revisions up to r. With one change a
user the two are the same. Reconciliation, which sees a user once in an interval however many
changes it had, must find each.)

A member (a worker of the model) is owed each change of its channels and users whose COMMIT was
sent after its subscription was live, if the database has the change at the end. A change that a
failover removed, or whose commit has an unknown outcome, is owed if and only if the database
has it. A GAP covers everything that was committed before it came: an application reads
everything then.

Two things are owed only if their NOTIFY came in time, as PROTOCOL.md says. The workers of a
relay that does not reconcile are owed a change only if its NOTIFY comes within the relay's
interval after the commit. While the recovery function is not installed, this holds for all
workers.
"""

import threading
import time
from collections import Counter
from typing import NamedTuple

FOLD_SECONDS = 30     # older changes that all have heard are only counted
UNDONE_SECONDS = 5    # a worker that is killed forgets no more than this
PROMPT_SECONDS = 0.5  # between a commit and its NOTIFY, if only the NOTIFY tells of it


class Committed(NamedTuple):
    user: str
    channel: str
    began: float  # when COMMIT was sent
    ended: float  # when it returned, or failed


class Model:
    def __init__(self):
        self._lock = threading.Lock()
        self._changes = []
        self._n_folded = 0
        self._awaited = {}       # user -> when its commit returned, for users that are notified at once
        self._notified = {}      # user -> when its NOTIFY is known to be committed
        self._unrecorded = []    # [begin, end) of the times when the database did not record changes
        self.began = time.monotonic()
        self.latencies = {}      # minute -> [seconds]
        self.kinds = Counter()   # of writes
        self.faults = Counter()  # that happened
        self.seconds = Counter() # that they took
        self.errors = []         # violations of the protocol, and failures of the model itself
        self.stands = []         # relays and workers that did not go on, and should have
        self.disturbed = []      # [begin, end) of each fault after which relays may announce again

    # What happens

    def committed(self, user, channel, began, kind, notified=False):
        """notified: the NOTIFY follows at once, so the change counts for the latency."""
        with self._lock:
            ended = time.monotonic()
            self._changes.append(Committed(user, channel, began, ended))
            self.kinds[kind] += 1
            if notified:
                self._awaited[user] = ended

    def notified(self, user):
        """Its NOTIFY is committed."""
        with self._lock:
            self._notified[user] = time.monotonic()

    def came(self, user):
        """The witness heard it live."""
        now = time.monotonic()
        with self._lock:
            ended = self._awaited.pop(user, None)
            if ended is not None:
                self.latencies.setdefault(int((ended - self.began) // 60), []).append(now - ended)

    def unrecorded(self, begin, end):
        """What was committed then without a NOTIFY is recorded nowhere."""
        with self._lock:
            self._unrecorded.append((begin, end))

    def fault(self, name, begin, disturbs):
        with self._lock:
            end = time.monotonic()
            self.faults[name] += 1
            self.seconds[name] += end - begin
            if disturbs:
                self.disturbed.append((begin, end))

    def error(self, text):
        with self._lock:
            self.errors.append(text)

    def stand(self, text):
        with self._lock:
            self.stands.append(text)

    # What is owed

    @property
    def n_changes(self):
        return self._n_folded + len(self._changes)

    def changes(self):
        with self._lock:
            return list(self._changes)

    def _told_within(self, change, seconds):
        notified = self._notified.get(change.user)
        return notified is not None and notified - change.began < seconds

    def is_owed(self, member, change, covered):
        """Whether the member must hear the change, if the database has it. covered: when the
        last GAP came."""
        if (member.subscribed_at is None or change.began <= member.subscribed_at or change.ended <= covered
                or not member.wants(change.user, change.channel)):
            return False
        if not member.relay.reconciles and not self._told_within(change, member.relay.interval * 0.9):
            return False
        return self._told_within(change, PROMPT_SECONDS) or not any(
            begin < change.ended and change.began < end for begin, end in self._unrecorded)

    def owed(self, member, present):
        """The users that this member must have heard, of those that the database has and
        that are not folded."""
        covered = max((at for at, _ in member.gaps), default=0)
        return {c.user for c in self.changes() if c.user in present and self.is_owed(member, c, covered)}

    def fold(self, members):
        """Forget, except for their number, the changes that every member to which they are
        owed has heard. Otherwise a long run would keep all of them, and look at all of them
        again and again. Returns the users."""
        now = time.monotonic()
        covered = {m: max((at for at, _ in list(m.gaps) if at < now - UNDONE_SECONDS), default=0) for m in members}
        changes, kept, folded = self.changes(), [], []
        for c in changes:
            owed = [m for m in members if self.is_owed(m, c, covered[m])]
            if c.ended > now - FOLD_SECONDS or not all(m.heard[c.user] > 0 for m in owed):
                kept.append(c)
                continue
            folded.append(c.user)
            for m in members:
                m.fold(c.user, m in owed)
        with self._lock:
            self._n_folded += len(folded)
            self._changes[:len(changes)] = kept
            for user in folded:
                self._notified.pop(user, None)
            for user in [u for u, ended in self._awaited.items() if ended < now - FOLD_SECONDS]:
                del self._awaited[user]
        return folded
