"""Plays a case: one method for each verb of a step. README.md says what they mean."""

import time

import relay as wire
from values import Mismatch, match, plain, show

STATES = ("connected", "disconnected", "live", "down")


def events_of(frame):
    """What a client tells of a frame of the relay, as the descriptions of vectors have it."""
    kind, f = frame[0], plain(frame, {})
    if kind == wire.WELCOME:
        connected = {"event": "state", "state": "connected", "text": f[4].get("mode", "")}
        return [connected, {"event": "state", "state": "live" if f[4].get("upstream") == "live" else "down"}]
    seq = f[1] or 0
    if kind == wire.CHANGE:
        return [{"event": "change", "seq": seq, "channel": f[2], "pubkey": f[3], "client_id": f[4], "recovered": f[5] & 1 == 1}]
    if kind == wire.MESSAGE:
        return [{"event": "message", "seq": seq, "channel": f[2], "payload": f[3], "recovered": f[4] & 1 == 1}]
    if kind == wire.GAP:
        return [{"event": "gap", "seq": seq, "cause": f[2], "text": f[3]}]
    if kind == wire.UPSTREAM:
        return [{"event": "state", "state": f[2], "text": f[3]}]
    if kind == wire.BYE:
        return [{"event": "state", "state": "disconnected"}]
    return []


class Player:
    """One round of a case. `trace` is called with each step before it is taken."""

    def __init__(self, relay, driver, variables, trace):
        self.relay, self.driver, self.trace = relay, driver, trace
        self.variables = dict(variables, socket=relay.path)
        self.frame = variables.get("frame")
        self._some = None

    def play(self, steps):
        for step in steps:
            self.trace(step)
            method = getattr(self, "step_" + step.verb.replace("-", "_"), None)
            if not method:
                raise Mismatch(f"there is no step {step.verb}")
            try:
                method(*([step.block] if step.block else []), *step.arguments)
            except (TypeError, ValueError, KeyError) as e:
                raise Mismatch(f"the step is malformed, or the event is: {e!r}") from e

    def finish(self):
        """Close the client if it is open. Nothing else may come."""
        if self.driver.open:
            self.step_do("close")
            self.step_hear("closed")
        event = self.event(0)
        if event:
            raise Mismatch(f"not expected: {show(event)}")

    def plain(self, value):
        return plain(value, self.variables)

    # The driver

    def step_do(self, name, fields=None, times=1):
        command = self.command(name, fields or {})
        if name == "open":
            self.driver.open = True
        for i in range(times):
            label = command.get("label")
            numbered = dict(command, label=f"{label}{i}") if label and times > 1 else command
            self.driver.tell(numbered)
        if name == "on":
            self.driver.cursor()  # it is answered in turn, so the rule is there now
        elif name == "pause":
            self.step_hear("paused")

    def command(self, name, fields):
        fields = {k: self.plain(v) for k, v in fields.items()}
        if name == "open":
            fields.setdefault("socket", self.relay.path)
            fields.setdefault("name", "test")
            fields = {k: v for k, v in fields.items() if v != "default"}
        return dict(fields, do=name)

    def event(self, seconds=None):
        event = self.driver.event(seconds)
        while event and self._is_one_more(event):
            event = self.driver.event(seconds)
        if event and event["event"] == "closed":
            self.driver.open = False
        return event

    def step_hear(self, what, *arguments):
        if isinstance(what, list):
            return self.hear_any(what)
        if what == "nothing":
            return self.hear_nothing()
        if what == "some":
            return self.hear_some(self.expectation(arguments[0], arguments[1:]))
        if what == "vector":
            expected = events_of(self.frame)
        elif what == "numbered":
            label, count = arguments
            expected = [self.expectation("done", [f"{label}{i}"]) for i in range(count)]
        else:
            expected = [self.expectation(what, arguments)]
        for event in expected:
            match(event, self.event(), self.variables, "the event")

    def expectation(self, what, arguments):
        if isinstance(what, dict):
            return self.plain(what)
        if what in STATES:
            return dict({"event": "state", "state": what}, **(self.plain(arguments[0]) if arguments else {}))
        if what == "done":
            label, *rest = arguments
            fields = rest[-1] if rest and isinstance(rest[-1], dict) else {}
            error = self.plain(rest[0]) if rest and isinstance(rest[0], str) else None
            return dict({"event": "done", "label": label, "error": error}, **self.plain(fields))
        return dict({"event": what}, **(self.plain(arguments[0]) if arguments else {}))

    def hear_nothing(self):
        event = self.event(wire.SHORT)
        if event:
            raise Mismatch(f"not expected: {show(event)}")

    def hear_some(self, expected):
        while event := self.event(10 * wire.SHORT):
            match(expected, event, self.variables, "the event")
        self._some = expected

    def _is_one_more(self, event):
        """Of those that "hear some" waited for: one may come later."""
        try:
            return self._some and match(self._some, event, self.variables, "the event") is None
        except Mismatch:
            return False

    def hear_any(self, block):
        left = [self.expectation(step.arguments[0], step.arguments[1:]) for step in block]
        while left:
            event, why = self.event(), None
            for expected in left:
                try:
                    match(expected, event, self.variables, "the event")
                except Mismatch as e:
                    why = e
                else:
                    left.remove(expected)
                    break
            else:
                raise Mismatch(f"not one of what is expected: {show(event)}; {why}")

    def step_cursor(self, expected):
        """It may not have read the last frames yet, so ask again."""
        deadline = time.monotonic() + self.driver.patience
        while True:
            found = self.driver.cursor()
            try:
                return match(expected, found, self.variables, "the cursor")
            except Mismatch:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.002)

    def step_contains(self, text, part):
        if self.plain(part) not in self.plain(text):
            raise Mismatch(f"{show(self.plain(text))} does not contain {show(self.plain(part))}")

    def step_settle(self, epoch, seq):
        self.step_do("open")
        self.step_do("subscribe", {"channel": "data", "label": "all"})
        self.step_greet(epoch, seq, None)
        self.step_subscribed({"data": None}, seq)
        self.step_hear("done", "all", {"seq": seq})

    # The relay

    def pack(self, frames):
        return b"".join(wire.pack(self.plain(frame)) for frame in frames)

    def step_accept(self):
        self.relay.accept()

    def step_expect(self, expected, times=1):
        if expected == "nothing":
            return self.relay.expect_nothing()
        for _ in range(times):
            match(self.plain(expected), self.relay.expect(), self.variables, "the frame")

    def step_send(self, *frames):
        self.relay.send(self.pack(frames))

    def step_bytewise(self, *frames):
        for byte in self.pack(frames):
            self.relay.send(bytes([byte]))
            self.relay.await_read()

    def step_halves(self, block, *frames):
        data = self.pack(frames)
        for at in range(1, len(data)):
            self.relay.send(data[:at])
            self.relay.await_read()
            self.relay.send(data[at:])
            self.play(block)

    def step_bytes(self, what):
        data = self.plain(what)
        self.relay.send(data if isinstance(data, bytes) else bytes.fromhex(data))

    def step_welcome(self, epoch, seq):
        info = {"mode": "postgres", "upstream": "live", "channels": ["data", "text:text"], "version": "0"}
        self.step_send([wire.WELCOME, 1, epoch, seq, info])

    def step_greet(self, epoch, seq, resume="*"):
        self.step_accept()
        self.step_expect([wire.HELLO, 1, "*", resume, "..."])
        self.step_welcome(epoch, seq)
        self.step_hear("connected")
        self.step_hear("live")

    def step_send_kind(self, kind, seq):
        kind = self.plain(kind)
        frames = {"change": [wire.CHANGE, seq, "data", "alice", None, 0], "message": [wire.MESSAGE, seq, "text", "hello", 0],
                  "gap": [wire.GAP, seq, "upstream", ""], "state": [wire.UPSTREAM, seq, "down", ""]}
        self.step_send(frames[kind])

    def step_flood(self, count, first):
        """Changes, which the driver must print one by one while they are sent, and after that."""
        seqs = range(first, first + count)
        self.step_send(*[[wire.CHANGE, seq, "data", f"user {seq}", None, 0] for seq in seqs])
        for seq in seqs:
            self.step_hear("change", {"seq": seq, "pubkey": f"user {seq}"})

    def step_published(self, count, seq):
        for i in range(count):
            frame = self.relay.expect()
            if frame[0] not in (wire.NOTIFY, wire.SEND):
                raise Mismatch(f"the frame is {show(frame)}, not a NOTIFY or SEND")
            self.step_send([wire.OK, frame[1], seq + i])

    def step_subscribe_many(self, channel, count):
        for i in range(count):
            self.step_do("subscribe", {"channel": channel, "pubkey": f"user {i}"})

    def step_subscribed_many(self, channel, count, seq):
        self.step_subscribed({channel: [f"user {i}" for i in range(count)]}, seq)

    def requested(self, kind, wanted, answer):
        """Requests about subscriptions come until they have named what is wanted."""
        left = {(channel, pubkey) for channel, pubkeys in wanted.items() for pubkey in self.pubkeys(pubkeys)}
        while left:
            frame = self.relay.expect()
            if frame[0] != kind:
                raise Mismatch(f"the client sends {show(frame)} before it has asked for {sorted(left, key=str)}")
            for pubkey in [None] if frame[3] is None else frame[3]:
                if (frame[2], pubkey) not in left:
                    raise Mismatch(f"the client asks for {(frame[2], pubkey)}, not only for {sorted(left, key=str)}")
                left.remove((frame[2], pubkey))
            self.step_send(answer(frame[1]))

    def pubkeys(self, pubkeys):
        return [None] if pubkeys is None else self.plain(pubkeys)

    def step_subscribed(self, wanted, seq):
        self.requested(wire.SUBSCRIBE, wanted, lambda id: [wire.OK, id, seq])

    def step_unsubscribed(self, wanted, seq):
        self.requested(wire.UNSUBSCRIBE, wanted, lambda id: [wire.OK, id, seq])

    def step_refused(self, wanted, code, text):
        self.requested(wire.SUBSCRIBE, wanted, lambda id: [wire.ERROR, id, code, text])

    def step_begun(self, id):
        self.step_expect([wire.BEGIN, id, "..."])

    def step_drop(self):
        self.relay.drop()

    def step_away(self):
        self.relay.away()

    def step_back(self):
        self.relay.back()

    def step_gone(self):
        self.relay.expect_end()

    def step_hammered(self, ms, most):
        self.relay.count_connections(ms / 1000, most)

    def step_wait(self, ms):
        time.sleep(ms / 1000)
