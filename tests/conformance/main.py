"""Plays the cases against drivers, several at a time, and prints a table: case by client."""

import argparse
import concurrent.futures
import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time

import case as cases
import drivers
from driver import Driver, command_of
from play import Player
from relay import Relay
from values import Mismatch

PASSED, FAILED, LACKS = "ok", "FAILED", "-"
END = "(end of input)"


class Result:
    def __init__(self, outcome, why=""):
        self.outcome, self.why = outcome, why


class Processes:
    """The processes of one driver. A case takes one that has no client open, and gives it back if it passed."""

    def __init__(self, command, patience):
        self.command, self.patience = command, patience
        self.idle, self.all, self.lock = [], [], threading.Lock()
        # Short, because a socket's path has at most 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="conf-", dir="/tmp")
        try:
            first = self.take({})
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        self.name, self.abilities = first.hello.get("name", "?"), first.hello.get("abilities", [])
        self.give_back(first)

    def take(self, environment):
        with self.lock:
            if self.idle and not environment:
                return self.idle.pop()
            number = len(self.all)
            self.all.append(None)
        variables = {k: v for k, v in os.environ.items() if k != "PGHERALD_SOCKET"}
        driver = Driver(self.command, os.path.join(self.directory, str(number)), dict(variables, **environment), self.patience)
        self.all[number] = driver
        return driver

    def give_back(self, driver):
        with self.lock:
            self.idle.append(driver)

    def end(self):
        """Whether all that are left end well when their input does. The others were killed."""
        result = Result(PASSED)
        for driver in self.idle:
            try:
                driver.end()
            except Mismatch as e:
                result = Result(FAILED, f"{END}\n    {e}" + said(driver.kill()))
        return result

    def kill(self):
        for driver in self.all:
            if driver:
                driver.kill()
        shutil.rmtree(self.directory)


def said(stderr):
    return "".join(f"\n    | {line}" for line in stderr.splitlines()[-20:])


class Attempt:
    """One case with one driver."""

    def __init__(self, case, processes, verbose):
        self.case, self.processes, self.verbose = case, processes, verbose
        self.steps, self.round = [], {}

    def run(self):
        lacks = set(self.case.needs) - set(self.processes.abilities)
        if lacks:
            return Result(LACKS, "the driver lacks " + " ".join(sorted(lacks)))
        driver, directory = None, tempfile.mkdtemp(prefix="conf-", dir="/tmp")
        socket = os.path.join(directory, "socket")
        try:
            environment = {k: v.replace("$socket", socket) for k, v in self.case.environment.items()}
            driver = self.processes.take(environment)
            for self.round in self.case.rounds:
                self.play(driver, socket)
            if environment:
                driver.end()
            else:
                self.processes.give_back(driver)
            return Result(PASSED)
        except (Mismatch, OSError, cases.Malformed) as e:
            return Result(FAILED, self.report(e) + (said(driver.kill()) if driver else ""))
        finally:
            shutil.rmtree(directory)

    def play(self, driver, socket):
        self.steps.clear()
        relay = Relay(socket, self.processes.patience)
        try:
            player = Player(relay, driver, self.round, self.trace)
            player.play(self.case.steps)
            player.finish()
        finally:
            relay.close()

    def trace(self, step):
        self.steps.append(step)
        if self.verbose:
            print(f"{self.case.name}:{step.number}: {step.line}", flush=True)

    def report(self, why):
        of = f" with {self.round['word']}" if "word" in self.round else ""
        step = f"line {self.steps[-1].number}: {self.steps[-1].line}" if self.steps else "at its start"
        return f"{self.case.name}{of}, {step[:200]}\n    {why}"


def table(rows, names, results):
    width = max(map(len, rows))
    lines = [" ".join([" " * width] + names)]
    for row in rows:
        cells = [results[row, i].outcome.ljust(len(name)) for i, name in enumerate(names)]
        lines.append(" ".join([row.ljust(width)] + cells).rstrip())
    return "\n".join(lines)


def play_all(chosen, drivers, arguments):
    """Results by case and number of the driver."""
    results = {}
    with concurrent.futures.ThreadPoolExecutor(1 if arguments.verbose else arguments.jobs) as pool:
        # Those with many rounds first, so that none of them is what all wait for at the end.
        attempts = {(case.name, i): pool.submit(Attempt(case, processes, arguments.verbose).run)
                    for case in sorted(chosen, key=lambda c: -len(c.rounds)) for i, processes in enumerate(drivers)}
        for key, attempt in attempts.items():
            results[key] = attempt.result()
    for i, processes in enumerate(drivers):
        results[END, i] = processes.end()
    return results


def arguments_of(argv):
    parser = argparse.ArgumentParser(prog="tests/conformance/run", description=__doc__)
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help="a command. Without any: all drivers of this tree that "
                        "can be run here; PGHERALD_BUILD is where the one of libpgherald was built")
    parser.add_argument("-k", dest="pattern", default="", help="only cases whose name contains this")
    parser.add_argument("-j", dest="jobs", type=int, default=3 * (os.cpu_count() or 1), help="how many at a time")
    parser.add_argument("-v", dest="verbose", action="store_true", help="every step, one case at a time")
    parser.add_argument("--patience", type=float, default=5, help="seconds for each step (default: 5)")
    parser.add_argument("--list", action="store_true", help="the cases and what they say")
    return parser.parse_args(argv)


def main(argv):
    arguments = arguments_of(argv)
    chosen = cases.all_cases(arguments.pattern)
    if not chosen:
        print("tests/conformance/run: no case has such a name", file=sys.stderr)
        return 2
    if arguments.list:
        for case in chosen:
            print(f"{case.name}: {case.title}")
        return 0
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            running = []
            for command in [command_of(driver) for driver in arguments.drivers] or drivers.all_drivers():
                running.append(Processes(command, arguments.patience))
                stack.callback(running[-1].kill)
        except (Mismatch, OSError) as e:
            print(f"tests/conformance/run: {command}: {e}", file=sys.stderr)
            return 2
        results = play_all(chosen, running, arguments)
        names = [processes.name for processes in running]
    rows = [case.name for case in chosen] + [END]
    print(table(rows, names, results))
    failures = [(names[i], results[row, i].why) for i in range(len(names)) for row in rows if results[row, i].outcome == FAILED]
    for name, why in failures:
        print(f"\n{name}: {why}")
    print(f"\n{len(chosen)} cases, {len(names)} drivers, {len(failures)} failed, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
