"""What the tests of the promise share: watching the relays' canaries, roles with fewer
rights, and what no checkpoint may pass."""

import hashlib
import json
from typing import NamedTuple

from harness.procs import wait_until
from harness.subscriber import sees
from harness.worker import Change, Checkpoint, Message


class Canary(NamedTuple):
    """The words of one canary. claim: what its sender has settled, or a mark."""
    relay: str
    nonce: str
    xid: str
    token: str
    claim: str
    since: str

    @property
    def settles(self):
        return ";" in self.claim


class Canaries:
    """All canaries on a database from now on, as a plain LISTEN hears them."""

    def __init__(self, database):
        self._listener = database.listen("pgherald_canary")

    def payloads(self):
        return [payload for _, payload in self._listener._poll()]

    def all(self, epoch=None):
        found = [Canary(*payload.split(" ")[1:7]) for payload in self.payloads()]
        return [c for c in found if epoch in (None, c.relay)]

    def wait_for(self, condition, what, epoch=None, after=0, deadline=20):
        """The first canary of this relay that fulfils the condition, after the first `after`
        of all."""
        def found():
            return [c for c in self.all()[after:] if epoch in (None, c.relay) and condition(c)]
        return wait_until(found, f"a canary: {what}", deadline)[0]

    def close(self):
        self._listener.close()


def forge(database, template, token, claim, since, channels=None, key=None, relay="0123456789abcdef"):
    """NOTIFY what another relay of these channels would send with this claim. template: the
    payload of a true canary. It is signed with the relays' key, unless another key is given."""
    magic, _, nonce, xid, _, _, _, their_channels, *_ = template.split(" ")
    if key is None:
        key = bytes(database.sql("SELECT key FROM pgherald.relay_key")[0][0])
    text = " ".join((magic, relay, nonce[::-1], xid, token, claim, since, channels or their_channels))
    signature = hashlib.sha256(key + hashlib.sha256(key + text.encode()).digest()).hexdigest()
    database.notify("pgherald_canary", f"{text} {signature}")


def turns(worker, data, canaries, count, epoch=None):
    """Let this many canaries pass. A trickle of changes runs meanwhile; without it there are
    none."""
    before = len(canaries.all(epoch))
    n = 0
    while len(canaries.all(epoch)) < before + count:
        n += 1
        data.change(f"tick{before}-{n}")
        worker.pump(0.05)


def silent(data, users):
    """Write each user in a transaction of its own, without a NOTIFY."""
    for user in users:
        data.write(user)


def passes_nothing_unheard(worker, data, but=()):
    """The worker has heard everything that a CHECKPOINT sees before that CHECKPOINT. So a
    recovery from there loses nothing."""
    xids = data.database.sql("SELECT user_id, changed_xid::text::bigint FROM user_revisions")
    heard = set()
    for frame in worker.frames:
        if isinstance(frame, Change):
            heard.add(frame.pubkey)
        elif isinstance(frame, Message):
            heard.add(frame.payload)
        elif isinstance(frame, Checkpoint):
            missed = [u for u, xid in xids if sees(frame.checkpoint, xid) and u not in heard and u not in but]
            assert missed == [], (missed[:20], len(missed), frame)


def role_that_may_read(database, name="lesser"):
    """Make a role for one relay, with the rights that the manual asks for. Returns its URL."""
    database.server.sql(f"CREATE ROLE {name} LOGIN")
    database.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, pgherald TO {name}")
    return database.server.url(database.name, name)


def reconciliation(relay):
    """What `status` says of reconciliation."""
    return json.loads(relay.ops("status json"))["reconciliation"]
