"""A load generator: a program that measures as often as it is asked, one line of JSON each time."""

import json
import os
import subprocess


class Failure(Exception):
    """A measurement that did not succeed."""


class Generator:
    """It may write more than its messages only when it fails."""

    def __init__(self, run, argv, environment):
        self._what = " ".join([os.path.basename(argv[0]), *argv[1:]])
        self._errors = os.path.join(run.subdirectory("generator"), "errors")
        with open(self._errors, "wb") as errors:
            self.process = run.spawn(argv, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=errors, encoding="utf-8")
        if self._line() != "ready":
            raise self._failure()

    def _failure(self):
        self.close()
        with open(self._errors, errors="replace") as errors:
            return Failure(f"{self._what}: {errors.read().strip() or self.process.returncode}")

    def _line(self):
        """It ends by itself if something hangs."""
        return self.process.stdout.readline().rstrip("\n")

    def answer(self):
        line = self._line()
        if not line:
            raise self._failure()
        answer = json.loads(line)
        if answer.get("faults"):
            raise Failure(f"{self._what}: {answer['faults']} gaps")
        return answer

    def ask(self, *numbers):
        """Returns what it measured."""
        try:
            self.process.stdin.write(" ".join(map(str, numbers)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self.answer()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
