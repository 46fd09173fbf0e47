"""Plays the cases against drivers, several at a time, and prints a table: case by client."""

import argparse
import concurrent.futures
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


class Result:
    def __init__(self, outcome, why=""):
        self.outcome, self.why = outcome, why


class Attempt:
    """One case with one driver."""

    def __init__(self, case, command, abilities, patience, verbose):
        self.case, self.command, self.abilities, self.patience, self.verbose = case, command, abilities, patience, verbose
        self.steps = []

    def run(self):
        if not set(self.case.needs) <= set(self.abilities):
            return Result(LACKS, "the driver lacks " + " ".join(sorted(set(self.case.needs) - set(self.abilities))))
        # Short, because a socket's path has at most 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="conf-", dir="/tmp")
        self.driver, self.round = None, {}
        try:
            self.play()
            return Result(PASSED)
        except (Mismatch, OSError, cases.Malformed) as e:
            said = self.driver.kill() if self.driver else ""
            self.driver = None
            return Result(FAILED, self.report(e, said))
        finally:
            if self.driver:
                self.driver.kill()
            shutil.rmtree(self.directory)

    def play(self):
        socket = os.path.join(self.directory, "socket")
        environment = dict(os.environ, **{k: v.replace("$socket", socket) for k, v in self.case.environment.items()})
        if "PGHERALD_SOCKET" not in self.case.environment:
            environment.pop("PGHERALD_SOCKET", None)
        self.driver = Driver(self.command, self.directory, environment, self.patience)
        for self.round in self.case.rounds:
            self.steps.clear()
            relay = Relay(socket, self.patience)
            try:
                player = Player(relay, self.driver, self.round, self.trace)
                player.play(self.case.steps)
                player.finish()
            finally:
                relay.close()
        self.driver.end()

    def trace(self, step):
        self.steps.append(step)
        if self.verbose:
            print(f"{self.case.name}:{step.number}: {step.line}", flush=True)

    def report(self, why, said):
        of = f" with {self.round['word']}" if "word" in self.round else ""
        step = f"line {self.steps[-1].number}: {self.steps[-1].line}" if self.steps else "at its start"
        lines = [f"{self.case.name}{of}, {step[:200]}", f"    {why}"]
        return "\n".join(lines + ["    | " + line for line in said.splitlines()[-20:]])


def hello(command, patience):
    """The first line of a driver: its name and its abilities."""
    directory = tempfile.mkdtemp(prefix="conf-", dir="/tmp")
    try:
        driver = Driver(command, directory, dict(os.environ), patience)
        found = driver.hello
        driver.end()
        driver.kill()
        return found
    finally:
        shutil.rmtree(directory)


def table(chosen, names, results):
    width = max([len(case.name) for case in chosen])
    lines = [" ".join([" " * width] + names)]
    for case in chosen:
        cells = [results[case.name, i].outcome.ljust(len(name)) for i, name in enumerate(names)]
        lines.append(" ".join([case.name.ljust(width)] + cells).rstrip())
    return "\n".join(lines)


def play_all(chosen, commands, arguments):
    """Results by case and number of the driver."""
    hellos = [hello(command, arguments.patience) for command in commands]
    results, lock = {}, threading.Lock()

    def play(number, case):
        attempt = Attempt(case, commands[number], hellos[number].get("abilities", []), arguments.patience, arguments.verbose)
        result = attempt.run()
        with lock:
            results[case.name, number] = result
    with concurrent.futures.ThreadPoolExecutor(1 if arguments.verbose else arguments.jobs) as pool:
        # Those with many rounds first, so that none of them is what all wait for at the end.
        attempts = [pool.submit(play, number, case) for case in sorted(chosen, key=lambda c: -len(c.rounds))
                    for number in range(len(commands))]
        for attempt in attempts:
            attempt.result()
    return [h.get("name", "?") for h in hellos], results


def arguments_of(argv):
    parser = argparse.ArgumentParser(prog="tests/conformance/run", description=__doc__)
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help="a command. Without any: all drivers of this tree that "
                        "can be run here; PGHERALD_BUILD is where the one of libpgherald was built")
    parser.add_argument("-k", dest="pattern", default="", help="only cases whose name contains this")
    parser.add_argument("-j", dest="jobs", type=int, default=4 * (os.cpu_count() or 1), help="how many at a time")
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
    with drivers.Found() as found:
        commands = [command_of(driver) for driver in arguments.drivers] or found.all()
        try:
            names, results = play_all(chosen, commands, arguments)
        except (Mismatch, OSError) as e:
            print(f"tests/conformance/run: {e}", file=sys.stderr)
            return 2
    print(table(chosen, names, results))
    failures = [(names[i], results[case.name, i].why) for i in range(len(names)) for case in chosen
                if results[case.name, i].outcome == FAILED]
    for name, why in failures:
        print(f"\n{name}: {why}")
    print(f"\n{len(chosen)} cases, {len(names)} drivers, {len(failures)} failed, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
