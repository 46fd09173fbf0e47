"""A worker that keeps a cursor as PROTOCOL.md says, can stop reading, and checks the relay
against the rules of resuming."""

import os
import socket

from harness.worker import BEGIN, CHANNEL, SUBSCRIBE, Bye, Change, Checkpoint, Error, Gap, Message, Ok, Upstream, Welcome, Worker


class Subscriber(Worker):
    """A Worker with a cursor, (epoch, seq, checkpoint), to resume from. It has no
    cursor before WELCOME."""

    def __init__(self, path, name="test", resume=None, receive_buffer=None):
        self._given = resume
        self._begin = None
        self._byes = []
        self._caught_up = resume is None
        self._from_database = False
        self.cursor = tuple(resume) if resume else None
        self._receive_buffer = receive_buffer
        super().__init__(path, name, list(resume) if resume else None)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    @property
    def epoch(self):
        return self.welcome.epoch

    def begin(self):
        self._begin = self.ask(BEGIN)
        return self._begin

    @property
    def is_caught_up(self):
        return self._caught_up

    def caught_up(self, deadline=30):
        """Wait for the OK to BEGIN, and return it."""
        answer = self.answer(self._begin, deadline)
        assert isinstance(answer, Ok), answer
        return answer

    def _check(self, frame):
        resumed = self._given is not None
        if resumed and not self._caught_up and self.frames:
            if self._begin is None:
                assert isinstance(frame, (Ok, Error)), f"{frame} before BEGIN"
            if isinstance(frame, (Change, Message)) and frame.seq is None:
                self._from_database = True
            if isinstance(frame, Checkpoint):
                assert not self._from_database, f"{frame} while it catches up from the database"
                assert self._given[0] == self.frames[0].epoch, f"{frame} before the OK to BEGIN in another epoch"
        super()._check(frame)
        if isinstance(frame, Bye):
            self._byes.append(frame)
        self._follow(frame)

    def of(self, kind):
        # Each frame calls it, and a recovery has many thousand.
        return self._byes if kind is Bye else super().of(kind)

    def _check_backlog(self, frame):
        # After catching up from the database, a CHECKPOINT, and a GAP before it, may have the
        # seq that the worker has reached already.
        if isinstance(frame, (Checkpoint, Gap)) and frame.seq == self._seq:
            assert frame.seq is not None
            self._seq -= 1
        super()._check_backlog(frame)

    def _follow(self, frame):
        epoch, seq, checkpoint = self.cursor or (None, None, None)
        if isinstance(frame, Welcome):
            if self._given is None:
                self.cursor = (frame.epoch, frame.seq, None)
            elif self._given[0] == frame.epoch:
                self._seq = 0 if self._given[1] > frame.seq else self._given[1]
        elif isinstance(frame, Ok) and self._begin is not None and frame.id == self._begin:
            self.cursor = (self.frames[0].epoch, frame.seq, checkpoint)
            self._caught_up = True
        elif isinstance(frame, (Change, Message, Gap, Upstream, Checkpoint)):
            if frame.seq is not None:
                seq = max(seq, frame.seq)
            if isinstance(frame, Checkpoint):
                checkpoint = frame.checkpoint
            self.cursor = (epoch, seq, checkpoint)

    # What came

    @property
    def gaps(self):
        return [g.cause for g in self.of(Gap)]

    @property
    def live(self):
        return [c.pubkey for c in self.changes if c.flags == 0]

    @property
    def recovered(self):
        return [c.pubkey for c in self.changes if c.flags == 1]

    def checkpoints(self):
        return [c.checkpoint for c in self.of(Checkpoint)]

    def hears_all(self, users, deadline=30):
        """Wait until the worker has heard each of these."""
        wanted = set(users)

        def heard():
            while self._looked < len(self.frames):
                frame = self.frames[self._looked]
                self._looked += 1
                if isinstance(frame, Change):
                    wanted.discard(frame.pubkey)
            return not wanted
        self._looked = 0
        self.wait_until(heard, f"changes of {len(wanted)} users", deadline)

    def passes(self, data, deadline=20, notify=None):
        """Wait for a checkpoint that sees everything that is committed by now, and return
        it. Relays that do not reconcile take turns only when they hear something: notify."""
        xid = data.database.sql("SELECT pg_current_xact_id()::text::bigint")[0][0]
        if notify:
            data.notify(notify)
        seen = len(self.frames)

        def newer():
            return [c for c in self.frames[max(seen - 50, 0):]
                    if isinstance(c, Checkpoint) and sees(c.checkpoint, xid)]
        return self.wait_until(newer, f"a CHECKPOINT that sees transaction {xid}", deadline)[0].checkpoint


def sees(checkpoint, xid):
    """Whether the snapshot in a relay's token sees this transaction as over. Tokens are
    opaque to workers, but tests look into them."""
    xmin, xmax, running = checkpoint.split(";")[3].split(":")
    return xid < int(xmax) and str(xid) not in running.split(",")


def subscriber(relay, pubkeys=None, channel=CHANNEL, **options):
    """A new subscriber that is subscribed."""
    worker = Subscriber(relay.path, **options)
    relay._workers.append(worker)
    answer = worker.subscribe(channel, pubkeys)
    assert isinstance(answer, Ok), answer
    return worker


def resumed(relay, cursor, pubkeys=None, channel=CHANNEL, wait=True, **options):
    """A subscriber that resumes. By default, waits until it is caught up."""
    worker = Subscriber(relay.path, resume=cursor, **options)
    relay._workers.append(worker)
    worker.ask(SUBSCRIBE, channel, pubkeys)
    worker.begin()
    if wait:
        worker.caught_up()
    return worker


def grew_by_at_most(relay, before, limit):
    """Whether the memory grew by at most this. A sanitizer keeps freed memory for a while;
    then the answer is always yes."""
    with open(f"/proc/{relay.process.pid}/maps") as maps:
        return "libasan" in maps.read() or relay.rss() - before < limit
