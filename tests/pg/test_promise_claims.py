"""Another relay's claim counts only if it joins on to what this relay's workers have. Forged
claims, each with one wrong word."""

import pytest

from harness.datasync import DataSync
from promise import Canaries, forge, passes_nothing_unheard
from harness.subscriber import subscriber

# Long enough that the relay's own turns leave room for another's.
SLOW = {"PGHERALD_CHECKPOINT_INTERVAL": "1.5"}


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db).recoverable()


class Scene:
    """A relay that leads, with the checkpoint `have`; a change that was never notified,
    which `now` sees; and a true canary."""

    def __init__(self, database, data, start_relay, canaries):
        self.database, self.data = database, data
        self.worker = subscriber(start_relay(database, **SLOW))
        data.change("first")
        self.worker.hears("first")
        self.have = self.worker.passes(data)
        self.canary = canaries.payloads()[-1]
        data.write("silent")
        snapshot, lsn = database.sql("SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text")[0]
        self.cluster, self.run, self.have_lsn, _ = self.have.split(";")
        self.snapshot, self.lsn = snapshot, lsn
        self.now = self.token()

    def token(self, cluster=None, run=None, lsn=None, snapshot=None):
        """The present token, with these parts replaced."""
        return ";".join((cluster or self.cluster, run or self.run, lsn or self.lsn, snapshot or self.snapshot))

    def forge(self, token=None, claim=None, since=None, **words):
        forge(self.database, self.canary, token or self.now, claim or self.now, since or self.have, **words)


@pytest.fixture
def scene(own_db, data, start_relay, cleanup):
    return Scene(own_db, data, start_relay, cleanup.add(Canaries(own_db)))


def test_a_true_one_is_taken(scene):
    """Otherwise the other tests show nothing."""
    scene.forge()
    scene.worker.wait_until(lambda: scene.now in scene.worker.checkpoints(), "the checkpoint that it claims")
    assert "silent" not in scene.worker.pubkeys


@pytest.mark.parametrize("reconciles, words", [("yes", ["!", "?", "a token"]), ("no", ["!", "-"])])
def test_other_releases_can_read_it(own_db, data, start_relay, cleanup, reconciles, words):
    """The words that stand for a claim: "!" proves the upstream, "?" leads, a token is settled, and "-" never reconciles."""
    def word(canary):
        return "a token" if canary.settles else canary.claim

    canaries = cleanup.add(Canaries(own_db))
    worker = subscriber(start_relay(own_db, PGHERALD_RECONCILE=reconciles, **SLOW))
    data.change("u1")
    worker.hears("u1")
    canaries.wait_for(lambda canary: word(canary) == words[-1], words[-1])
    assert list(dict.fromkeys(map(word, canaries.all()))) == words


def seems_older(scene):
    """A snapshot is taken before its LSN is read. So of two tokens made at once, the one
    with the lower LSN may see more."""
    return {"since": scene.token(lsn=scene.have_lsn)}


def begins_later(scene):
    return {"since": scene.now}


def another_run(scene):
    tokens = [scene.token(run=str(int(scene.run) + 1)), scene.token(run=str(int(scene.run) + 1), lsn=scene.have_lsn, snapshot="3:3:")]
    return {"token": tokens[0], "claim": tokens[0], "since": tokens[1]}


def begins_in_another_run(scene):
    return {"since": scene.token(run=str(int(scene.run) - 1), lsn=scene.have_lsn, snapshot="3:3:")}


def settles_another_run(scene):
    return {"claim": scene.token(run=str(int(scene.run) + 1))}


def another_cluster(scene):
    tokens = [scene.token(cluster="1"), scene.token(cluster="1", snapshot="3:3:")]
    return {"token": tokens[0], "claim": tokens[0], "since": tokens[1]}


def settles_the_future(scene):
    return {"claim": scene.token(lsn="FF/0")}


def other_channels(scene):
    return {"channels": "0123456789abcdef"}


def another_key(scene):
    return {"key": b"x" * 32}


def no_token(scene):
    return {"claim": "0;0;0;0"}


@pytest.mark.parametrize("wrong", [seems_older, begins_later, another_run, begins_in_another_run, settles_another_run, another_cluster,
                                   settles_the_future, other_channels, another_key, no_token])
def test_a_wrong_one_counts_for_nothing(scene, wrong):
    """The change is still announced, and no checkpoint passes it before."""
    words = wrong(scene)
    for _ in range(2):
        scene.forge(**words)
    scene.worker.hears("silent")
    scene.worker.passes(scene.data)
    assert not set(words.values()) & set(scene.worker.checkpoints()) and not scene.worker.gaps
    passes_nothing_unheard(scene.worker, scene.data)


@pytest.mark.parametrize("claim", ["!", "?", "-"])
def test_who_says_often_that_it_settles_nothing_yet_holds_up_nobody(scene, claim):
    """A relay that fails, that has just begun, or that does not reconcile: many of its turns
    in one of ours."""
    for n in range(30):
        scene.forge(claim=claim)
        scene.worker.pump(0.1)
    scene.worker.wait_until(lambda: "silent" in scene.worker.pubkeys, "the announcement", 30)
    scene.worker.passes(scene.data)
    passes_nothing_unheard(scene.worker, scene.data)


def test_relays_that_begin_again_and_again_hold_up_nobody(own_db, data, start_relay, cleanup):
    """Each says that it has begun, and is gone before it settles anything, like a relay that
    crashes soon after each start. The one that stays has not led yet."""
    canaries = cleanup.add(Canaries(own_db))
    worker = subscriber(start_relay(own_db, **SLOW))
    canaries.wait_for(lambda c: True, "its proof") if not canaries.all() else None
    have = worker.checkpoints()[0]
    data.write("silent")
    n = 0
    while "silent" not in worker.pubkeys:
        n += 1
        assert n < 200, "two minutes of beginnings, and nobody announces it"
        forge(own_db, canaries.payloads()[0], have, "?", have, relay=f"{n:016x}")
        worker.pump(0.6)
    worker.passes(data)
    passes_nothing_unheard(worker, data)
