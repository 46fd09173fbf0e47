"""The healthy workers, as a process of a user of their own.

    healthy.py hear PATH UID COUNT         one publishes, two hear: how long that takes, and that nothing is amiss
    healthy.py resume PATH UID TOKEN       one comes with an old checkpoint, again and again, and asks what it missed

A line in: "begin", or "end N" where N of the silent changes were written by now. After "end" a line out: a JSON object with
the figures since "begin". Between two measurements they go on.
"""

import gc
import json
import os
import select
import statistics
import sys
import time


from harness.subscriber import Subscriber
from harness.worker import CHANNEL, NOTIFY, SUBSCRIBE, Bye, Change, Error, Gap, Upstream, Worker

EVERY_SECONDS = 0.02   # between two publications
RESUME_SECONDS = 0.5   # between two resumes
LATEST_SECONDS = 30.   # after an attack, for what was not heard during it
USER = "healthy"
KEPT = "kept"          # of whom there was a change since the checkpoint


def silent(n):
    """Users whose changes are written and never notified."""
    return f"silent{n}"


def percent(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Measurement:
    """From "begin" to "end", and what is still to come then."""

    def __init__(self):
        self.sent = {}        # number -> when, of those that not all have heard
        self.left = {}        # number -> who has still to hear it, or to answer
        self.began = time.monotonic()
        self.seconds = []     # from publish to heard
        self.worst_at = (0, 0)  # how long the longest took, and when it was published
        self.n_published = 0
        self.amiss = {"gaps": [], "byes": [], "refused": [], "upstream": []}

    def took(self, seconds, at):
        self.seconds.append(seconds)
        self.worst_at = max(self.worst_at, (seconds, at - self.began))

    def figures(self):
        return {"published": self.n_published, "lost": len(self.left), **self.amiss,
                "p50": statistics.median(self.seconds), "p99": percent(self.seconds, 0.99), "max": self.worst_at[0],
                "max_at": self.worst_at[1]}


class Hearers:
    def __init__(self, path, count):
        self.publisher = Worker(path, "healthy publisher")
        self.hearers = [Subscriber(path, "healthy hearer") for _ in range(2)]
        for hearer in self.hearers:
            hearer.subscribe(pubkeys=[USER, *map(silent, range(count))])
        self.numbers = {}  # of the requests
        self.announced = [set() for _ in self.hearers]
        self.n = 0
        self.now = Measurement()
        self.ending = None  # how many of the silent changes must be heard; and until when
        self.next = time.monotonic()

    def sockets(self):
        return [self.publisher.socket, *(h.socket for h in self.hearers)]

    def publish(self):
        # Where it lags, it does not make good for it by a burst.
        self.next = max(self.next + EVERY_SECONDS, time.monotonic())
        if self.ending:
            return
        self.n += 1
        self.now.n_published += 1
        self.now.sent[self.n] = time.monotonic()
        self.now.left[self.n] = {self.publisher, *self.hearers}
        self.numbers[self.publisher.ask(NOTIFY, CHANNEL, USER, str(self.n))] = self.n

    def done(self, n, who):
        """Whether it was still awaited."""
        left = self.now.left.get(n)
        if left is None or who not in left:
            return False
        left.discard(who)
        if not left:
            del self.now.left[n], self.now.sent[n]
        return True

    def take(self, who, frame):
        amiss = self.now.amiss
        if isinstance(frame, Change) and frame.client_id is not None:
            at = self.now.sent.get(int(frame.client_id))
            if self.done(int(frame.client_id), who):
                self.now.took(time.monotonic() - at, at)
        elif isinstance(frame, Change):
            self.announced[self.hearers.index(who)].add(frame.pubkey)
        elif isinstance(frame, Gap):
            amiss["gaps"].append(f"{frame.cause}: {frame.text}")
        elif isinstance(frame, Bye):
            amiss["byes"].append(f"{frame.code}: {frame.text}")
        elif isinstance(frame, Upstream):
            amiss["upstream"].append(f"{frame.state}: {frame.text}")
        elif isinstance(frame, Error):
            amiss["refused"].append(f"{frame.code}: {frame.text}")

    def pump(self, who):
        if who.closed or not who.pump():
            return
        for frame in who.frames[2:] if len(who.frames) > 2 else ():
            self.take(who, frame)
        del who.frames[2:]
        for id in list(who._answers):
            n = self.numbers.pop(id, None)
            if who._answers.pop(id, None) and n:
                self.done(n, who)

    def begin(self):
        self.now = Measurement()

    def end(self, n_silent):
        self.ending = (n_silent, time.monotonic() + LATEST_SECONDS)

    def turn(self):
        """The figures, when a measurement is over."""
        for who in (self.publisher, *self.hearers):
            self.pump(who)
        if self.ending:
            n_silent, until = self.ending
            missing = [sum(silent(n) not in heard for n in range(n_silent)) for heard in self.announced]
            if (not self.now.left and not any(missing)) or time.monotonic() > until:
                self.ending = None
                return {**self.now.figures(), "unannounced": max(missing)}
        elif time.monotonic() >= self.next:
            self.publish()


class Resumer:
    """A new connection each time. How long: from the connect to the OK after what it missed."""

    def __init__(self, path, token):
        self.path, self.token = path, token
        self.worker = self.began = None
        self.ending = None
        self.next = time.monotonic()
        self.begin()

    def sockets(self):
        return [self.worker.socket] if self.worker else []

    def begin(self):
        self.seconds = []
        self.amiss = []

    def end(self, _):
        self.ending = time.monotonic() + LATEST_SECONDS

    def start(self):
        self.began = self.began or time.monotonic()
        try:
            self.worker = Subscriber(self.path, "healthy resumer", ["gone", 1, self.token])
        except BlockingIOError:
            return  # the queue of those who connect is full for now
        self.worker.ask(SUBSCRIBE, CHANNEL, [KEPT])
        self.asked = self.worker.begin()

    def stop(self):
        self.worker.close()
        self.worker = self.began = None
        self.next = time.monotonic() + RESUME_SECONDS

    def serve(self):
        worker = self.worker
        if worker.answered(self.asked):
            self.seconds.append(time.monotonic() - self.began)
            if worker.of(Gap) or KEPT not in worker.pubkeys:
                self.amiss.append(f"not what it missed: {worker.tail()}")
            self.stop()
        elif worker.closed:
            self.amiss.append(f"disconnected: {worker.tail()}")
            self.stop()

    def turn(self):
        if self.worker:
            self.serve()
        elif self.began or (not self.ending and time.monotonic() >= self.next):
            self.start()
        if self.ending and (not self.began or time.monotonic() > self.ending):
            unanswered = self.began is not None
            self.ending = None
            return {"resumes": len(self.seconds), "amiss": self.amiss + ["not answered"] * unanswered,
                    "max": max(self.seconds, default=0)}


def main():
    kind, path, uid, what = sys.argv[1:]
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    gc.freeze()
    party = Hearers(path, int(what)) if kind == "hear" else Resumer(path, what)
    print("ready", flush=True)
    while True:
        left = max(0, party.next - time.monotonic()) if party.next > time.monotonic() else 0.02
        if sys.stdin in select.select([sys.stdin, *party.sockets()], [], [], left)[0]:
            words = sys.stdin.readline().split()
            if not words:
                return
            if words[0] == "begin":
                party.begin()
            else:
                party.end(int(words[1]))
        figures = party.turn()
        if figures:
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
