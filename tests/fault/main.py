#!/usr/bin/python3 -B
"""Runs the fault suite: writers, workers and faults, and a model next to them that knows what must be heard.

    tests/fault/run --seed 1 --seconds 60
    tests/fault/run --soak --json soak.json       half an hour
    tests/fault/run --seed 1 --seconds 60 --faults terminate-upstream,kill-relay,channels
    tests/fault/run --seed 1 --seconds 30 --timestamps    the wrong way: this must lose

One seed is one sequence of faults, and one choice of the differences between the relays.
PGHERALD_BUILD names the build directory (default: build). A run ends with a table and a verdict.

Exit status 1: a change was lost, a GAP came that no fault excuses, a relay or a worker does not
go on at the end, or a change was announced more often than PROTOCOL.md allows. Exit status 2:
something else went wrong, for example memory or descriptors grew without bound in the relay and
the worker that live as long as the run. Latency is reported, and does not count.
"""

import argparse
import json
import os
import random
import sys
import traceback


from hosts import CONDITIONS
from plan import FAULTS
from harness.procs import Run
from system import default_names, one_run


def listed(names):
    return ", ".join(sorted(names))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default=None, help="which run; a random one unless told")
    parser.add_argument("--seconds", type=float, default=60, help="how long faults go on (default: 60)")
    parser.add_argument("--soak", action="store_const", dest="seconds", const=1800, help="as --seconds 1800")
    parser.add_argument("--json", metavar="FILE", help="where to write the figures of the table")
    parser.add_argument("--faults", help="which, comma-separated (default: all; with --timestamps terminate-upstream): "
                        + listed(FAULTS) + "; and what the relays differ in (default: some, by the seed): "
                        + "; ".join(f"{name}: {text}" for name, text in sorted(CONDITIONS.items())))
    parser.add_argument("--timestamps", action="store_true", help="recover by updated_at and not by snapshot")
    parser.add_argument("--verbose", action="store_true", help="print the logs at the end, though all is well")
    arguments = parser.parse_args()
    seed = arguments.seed or str(random.randrange(10 ** 6))
    if arguments.faults:
        names = arguments.faults.split(",")
    else:
        names = ["terminate-upstream"] if arguments.timestamps else default_names(seed)
    unknown = set(names) - set(FAULTS) - set(CONDITIONS)
    if unknown:
        parser.error(f"no such fault: {listed(unknown)}")
    if not set(names) & set(FAULTS):
        parser.error("name a fault")
    print(f"seed {seed}, {arguments.seconds:g} s, with: {listed(set(names) & set(CONDITIONS)) or 'relays alike'}", flush=True)
    run = Run()
    try:
        verdict = one_run(run, seed, arguments.seconds, names=names, timestamps=arguments.timestamps)
    finally:
        run.close()
    if arguments.verbose or not verdict.good:
        print(verdict.details)
    for name, users in verdict.lost.items():
        print(f"{name} lost {', '.join(sorted(users)[:20])}")
    for name, texts in verdict.gaps.items():
        print(f"{name}: {'; '.join(texts[:5])}")
    for text in verdict.stands:
        print(f"STANDS: {text}")
    for text in verdict.repeated[:20]:
        print(f"TOO OFTEN: {text}")
    for error in verdict.errors:
        print(f"FAILED: {error}")
    print(verdict.report)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"seconds": arguments.seconds, **verdict.figures, "errors": verdict.errors, "stands": verdict.stands,
                       "repeated": verdict.repeated}, file, indent=2)
    return 0 if verdict.good else 2 if verdict.errors else 1


if __name__ == "__main__":
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 2
    sys.exit(status)
