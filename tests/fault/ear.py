"""A plain LISTEN connection of the driver. It knows how often relays announce each change,
and which relay leads."""

import json
import select
import threading
import time
from collections import deque
from typing import NamedTuple

import psycopg2

CANARY = "pgherald_canary"
LAST, CALM = "last", "calm"  # what the users of the changes at the end begin with


class Announced(NamedTuple):
    times: int
    first: float
    last: float


class Ear:
    """Writers give a client id, and announcements of relays have none: that tells them
    apart."""

    def __init__(self, site):
        self.site = site
        self.announced = {}  # user -> Announced
        self.told = set()    # the users at the end of whom the driver told
        self.terms = []      # when a relay began to answer for others
        self.leader = None   # the epoch in the last canary of one that answers for others
        self.canaries = deque(maxlen=100)  # (when, epoch) of the last ones
        self._claims = {}    # epoch -> its last claim
        self._connection = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ear")

    def start(self):
        self._thread.start()
        return self

    def _run(self):
        while not self._stop.is_set():
            try:
                if self._connection is None:
                    self._connect()
                if select.select([self._connection], [], [], 0.1)[0]:
                    self._take()
            except (psycopg2.Error, OSError, ValueError):
                self._drop()
                self._stop.wait(0.05)
        self._drop()

    def _connect(self):
        connection = self.site.connect("postgres", 5000, "ear")
        connection.autocommit = True
        self._connection = connection
        for channel in (CANARY, *self.site.channels):
            connection.cursor().execute(f"LISTEN {channel}")

    def _drop(self):
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _take(self):
        self._connection.poll()
        notifies, self._connection.notifies[:] = list(self._connection.notifies), []
        now = time.monotonic()
        for notify in notifies:
            if notify.channel == CANARY:
                self._canary(notify.payload.split(" "), now)
                continue
            change = json.loads(notify.payload)
            if "c" in change:
                if change["p"].startswith((LAST, CALM)):
                    self.told.add(change["p"])
            else:
                a = self.announced.get(change["p"])
                self.announced[change["p"]] = Announced(a.times + 1, a.first, now) if a else Announced(1, now, now)

    def _canary(self, words, now):
        """MAGIC RELAY NUMBER XID TOKEN CLAIM, and more. A relay claims "?" when its term
        begins, and "-" or "!" when it does not answer for others."""
        relay, claim = words[1], words[5]
        self.canaries.append((now, relay))
        if claim == "?" and self._claims.get(relay) != "?":
            self.terms.append(now)
        self._claims[relay] = claim
        if claim not in ("-", "!"):
            self.leader = relay

    def forget(self, users):
        """Forget changes that were announced at most once, and long ago."""
        for user in users:
            if user in self.announced and self.announced[user].times <= 1:
                del self.announced[user]

    def n_terms(self, begin, end):
        return sum(1 for at in list(self.terms) if begin <= at <= end)

    def close(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join(10)
