#!/usr/bin/python3 -B
"""Measures this project next to its peers, and prints each row with its target.

    tests/bench/run                             all rows
    tests/bench/run --rows 'restart*' '*TLS*'   some of them; --list names them
    tests/bench/run --quick                     scaled down, to see that all of it works
    tests/bench/run --write                     and writes RESULTS.md and results.svg
    tests/bench/run --compare OTHER_BUILD       this build and another of this project, pair by pair

It builds into build-bench, and installs what that needs. Exit status 1: a row misses its target, or
could not be measured. A row that is undecided does not count."""

import argparse
import fnmatch
import os
import sys
import time

import builds
import compare
import report
from cases import CASES
from measure import measure, undecided_targets
from rig import Rig
from sides import Bench


# Seconds after which a row gets only the rounds that a verdict needs at least. So a run of all rows takes some 20 minutes.
PATIENCE = 720


def picked(patterns):
    """[(case, rows)]. Without patterns also the cases that have figures alone."""
    if not patterns:
        return [(case, case.rows) for case in CASES]
    def wanted(name):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    found = [(case, [row for row in case.rows if wanted(case.row_name(row))]) for case in CASES]
    return [(case, rows) for case, rows in found if rows]


class Progress:
    def __init__(self):
        self._start = time.monotonic()

    def __call__(self, result):
        self._say(f"{self.seconds:5.0f} s  {result.case.name}, after {result.rounds} rounds")

    def known(self, result, rows):
        """A run takes long: what is known stays on the screen."""
        verdicts = ", ".join(f"{row.name} {report.row_cells(result, row)[-1]}" for row in rows)
        self._say(f"{self.seconds:5.0f} s  {result.case.name}: {verdicts or 'measured'}\n")

    @staticmethod
    def _say(text):
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    @property
    def seconds(self):
        return time.monotonic() - self._start

    def end(self):
        self._say("")


def against_targets(cases, bench, progress):
    outcomes = []
    for case, rows in cases:
        sides = {name: lambda make=make: make(bench) for name, make in case.sides.items()}
        undecided = undecided_targets(rows, in_time=lambda: progress.seconds < PATIENCE)
        result = measure(case, sides, undecided, bench.quick, progress)
        progress.known(result, rows)
        outcomes.append((result, rows))
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", metavar="PATTERN", nargs="+", help="as of the shell")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="all figures, one a round")
    parser.add_argument("--compare", metavar="OTHER_BUILD", help="a build directory of meson")
    options = parser.parse_args()
    cases = picked(options.rows)
    if options.list:
        print("\n".join(case.row_name(row) for case, rows in cases for row in rows))
        return 0
    if not cases:
        parser.error("no row is called so; --list names them")
    if options.write and (options.rows or options.quick or options.compare):
        parser.error("--write is for all rows at full size")
    this = builds.make()
    progress, rig = Progress(), Rig(this.generator("slow_fsync.so"))
    try:
        bench = Bench(rig, this, this, options.quick)
        if options.compare:
            other = Bench(rig, builds.Build(options.compare), this, options.quick)
            for line in compare.run(cases, bench, other, progress):
                print(line, flush=True)
            return 0
        outcomes = against_targets(cases, bench, progress)
        context = report.context(rig, this, options.quick, progress.seconds)
    finally:
        rig.close()
        progress.end()
    print("\n".join([report.heading(context), "", *report.figures(outcomes), "", *report.table(outcomes)]))
    if options.json:
        report.write_json(options.json, outcomes, context)
    if options.write:
        report.write_results(outcomes, context)
    return 0 if report.passed(outcomes) else 1


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
