"""Which GAPs a fault excuses. Where recovery is installed no GAP may come but those that nothing could have spared: each such
fault says for which relays, and for how long. A GAP that none excuses counts as a failure."""

import time

GRACE = 60  # seconds: a relay may wait for 30 before it looks, and a worker may be away or read slowly


class Excuse:
    def __init__(self, reason, hosts, times):
        self.reason = reason
        self.hosts = set(hosts)
        self.times = times  # for each worker
        self.began = time.monotonic()
        self.ended = None

    def close(self):
        self.ended = time.monotonic()

    def holds(self, host, at):
        return host in self.hosts and at >= self.began and (self.ended is None or at < self.ended + GRACE)


class Excuses:
    def __init__(self):
        self._all = []

    def add(self, reason, hosts, times=2):
        """From now on, until it is closed, and for a while beyond."""
        excuse = Excuse(reason, hosts, times)
        self._all.append(excuse)
        return excuse

    def sort(self, member):
        """Its GAPs: ({reason: how many are excused for it}, the texts of the others)."""
        excused, bad, used = {}, [], {}
        for at, text in member.gaps:
            for excuse in reversed(self._all):
                if excuse.holds(member.relay, at) and used.get(excuse, 0) < excuse.times:
                    used[excuse] = used.get(excuse, 0) + 1
                    excused[excuse.reason] = excused.get(excuse.reason, 0) + 1
                    break
            else:
                bad.append(text)
        return excused, bad
