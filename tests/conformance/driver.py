"""A driver process: gives it commands, and takes its events. What it prints is read by a thread of its own, so that
it never waits for this side."""

import json
import os
import queue
import shlex
import subprocess
import threading

from values import Mismatch, plain, show


def command_of(driver):
    """The arguments of a driver's command. Paths are from here, as the driver runs in another directory."""
    if os.path.exists(driver):
        return [os.path.abspath(driver)]
    program, *words = shlex.split(driver)
    return [os.path.abspath(program) if "/" in program else program,
            *[os.path.abspath(word) if os.path.exists(word) else word for word in words]]


# Seconds until the first line. A language may take long on a busy machine.
STARTS = 60


class Driver:
    def __init__(self, command, directory, environment, patience):
        self.patience, self.said = patience, None
        os.mkdir(directory)
        self.events, self.cursors = queue.Queue(), queue.Queue()
        self.stderr = open(os.path.join(directory, "stderr"), "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr,
                                        env=environment, cwd=directory)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.open = False  # it has a client
        try:
            self.hello = self.event(STARTS) or {}
        except Mismatch:
            self.kill()
            raise
        if self.hello.get("event") != "driver":
            self.kill()
            raise Mismatch(f"the driver's first line is {show(self.hello)}")

    def _read(self):
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "malformed", "line": line.decode("utf-8", "replace")}
            of = self.cursors if event.get("event") == "cursor" else self.events
            of.put({k: plain(v, {}) for k, v in event.items()})
        self.events.put(None)
        self.cursors.put(None)

    def tell(self, command):
        line = json.dumps(command, default=lambda data: {"bin": data.hex()})
        try:
            self.process.stdin.write(line.encode("utf-8", "surrogatepass") + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Mismatch("the driver has ended") from None

    def event(self, seconds=None):
        """The next one. None after so long, if `seconds` is given."""
        try:
            event = self.events.get(seconds != 0, self.patience if seconds is None else seconds)
        except queue.Empty:
            if seconds is not None:
                return None
            raise Mismatch("the driver prints no event") from None
        if event is None:
            self.events.put(None)
            raise Mismatch("the driver has ended")
        return event

    def cursor(self):
        self.tell({"do": "cursor"})
        try:
            event = self.cursors.get(timeout=self.patience)
        except queue.Empty:
            raise Mismatch("the driver does not print the cursor") from None
        if event is None:
            raise Mismatch("the driver has ended")
        return event["cursor"]

    def end(self):
        """End its input. It must end with status 0."""
        self.process.stdin.close()
        try:
            status = self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            raise Mismatch("the driver does not end when its input does") from None
        if status != 0:
            raise Mismatch(f"the driver ended with status {status}")

    def kill(self):
        """Whatever state it is in. Returns what it wrote to standard error."""
        if self.said is not None:
            return self.said
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.stderr.seek(0)
        self.said = self.stderr.read()
        self.stderr.close()
        return self.said
