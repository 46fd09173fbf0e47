"""Which GAPs a fault excuses. Where recovery is installed, a GAP may come only if nothing
could have avoided it. Each such fault says for which relays, and for how long. A GAP without
an excuse counts as a failure."""

import time

SOON = 5     # seconds for what is in progress when the fault ends
GRACE = 60   # seconds: a relay may wait 30 seconds before it looks, and a worker may be away
TRICKLE = 30 # the longer it takes until a worker that reads slowly has read what it was sent


class Excuse:
    def __init__(self, reason, hosts, times, grace):
        self.reason = reason
        self.hosts = set(hosts)
        self.times = times  # for each worker
        self.grace = grace
        self.began = time.monotonic()
        self.ended = None

    def close(self):
        self.ended = time.monotonic()

    def holds(self, member, at):
        late = self.grace + (TRICKLE if member.trickles else 0)
        return member.relay in self.hosts and at >= self.began and (self.ended is None or at < self.ended + late)


class Excuses:
    def __init__(self):
        self._all = []

    def add(self, reason, hosts, times=2, grace=GRACE):
        """From now on, until it is closed and for a while after that: this many GAPs of each
        worker of these relays."""
        excuse = Excuse(reason, hosts, times, grace)
        self._all.append(excuse)
        return excuse

    def sort(self, member):
        """The GAPs of a worker: ({reason: how many it excuses}, the texts of the others)."""
        excused, bad, used = {}, [], {}
        for at, text in member.gaps:
            for excuse in reversed(self._all):
                if excuse.holds(member, at) and used.get(excuse, 0) < excuse.times:
                    used[excuse] = used.get(excuse, 0) + 1
                    excused[excuse.reason] = excused.get(excuse.reason, 0) + 1
                    break
            else:
                bad.append(text)
        return excused, bad
