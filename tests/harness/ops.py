"""The ops socket: an operator that stays connected, and what the replies say."""

import json
import re
import socket

from harness.procs import DEADLINE


class Operator:
    """A connection that stays open."""

    def __init__(self, relay):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(relay.ops_path)
        self.text = ""

    def say(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def reads(self, condition):
        """Read until condition(text) is true, and return what it returned."""
        while True:
            result = condition(self.text)
            if result:
                return result
            data = self.socket.recv(65536)
            assert data, f"the relay closed: {self.text[-2000:]}"
            self.text += data.decode()

    def asks(self, line):
        """Send a command, and return the whole reply."""
        self.text = ""
        self.say(line)
        self.reads(lambda text: text.endswith("\n\n"))
        return self.text

    def close(self):
        self.socket.close()


def objects(reply):
    assert reply.endswith("\n\n"), reply
    return [json.loads(line) for line in reply[:-2].split("\n") if line]


def metric(relay, name, **labels):
    """The value of a sample, as Prometheus reads it."""
    label = "".join(f'{{{k}="{v}"}}' for k, v in labels.items())
    found = re.search(rf"^{re.escape(name + label)} (\S+)$", relay.ops("metrics"), re.M)
    assert found, f"no {name}{label} in {relay.ops('metrics')}"
    return float(found[1])
