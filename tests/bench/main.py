#!/usr/bin/python3 -B
"""Installs what is missing, builds, measures all sides on servers of its own, and prints each
row with its target.

    tests/bench/run [--quick] [--json FILE] [--plot FILE] [--only CASE]... [--rounds N]

A round measures every side of every comparison in turn. A ratio compares figures of one round;
the table has its median, least and greatest. Exit status 1: a row misses its target. --quick
runs one short round, to check that everything works."""

import argparse
import os
import platform
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))


def build():
    """A release build of its own, with what profiling needs. It does not install Redis and
    NATS, because installing one starts a server."""
    directory = os.path.join(TOP, "build-bench")
    steps = [[os.path.join(TOP, "tests", "deps")]]
    if not os.path.exists(os.path.join(directory, "build.ninja")):
        steps.append(["meson", "setup", "--buildtype=debugoptimized", directory, TOP])
    steps.append(["ninja", "-C", directory])
    for step in steps:
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout)


def machine():
    version = subprocess.run(["pg_config", "--version"], capture_output=True, text=True).stdout.split()[1].split(".")[0]
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, PostgreSQL {version}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="SVG; otherwise it goes to build-bench/bench.svg")
    parser.add_argument("--only", metavar="CASE", action="append")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    build()

    import cases
    import report
    import rig
    known = {case.__name__: case for case in cases.CASES}
    names = options.only or list(known)
    if not set(names) <= set(known):
        parser.error("the cases are " + ", ".join(known))
    rounds = options.rounds or (1 if options.quick else 5)
    figures, failures, start = cases.Figures(), {}, time.monotonic()
    ground = rig.Rig()
    try:
        bench = cases.Bench(ground, figures, 0.3 if options.quick else 2)
        for number in range(rounds):
            for name in names:
                print(f"\r\x1b[K{time.monotonic() - start:5.0f} s  round {number + 1} of {rounds}  {name}", end="",
                      file=sys.stderr, flush=True)
                try:
                    known[name](bench)
                except (AssertionError, rig.Failure) as failure:
                    failures[name] = str(failure)
        skipped = bench.missing
    finally:
        ground.close()
    print("\r\x1b[K", end="", file=sys.stderr)

    context = {"machine": machine(), "rounds": rounds, "quick": options.quick}
    lines, passed = report.table(figures, skipped, failures, names)
    print(f"{context['machine']}; {rounds} round{'s' if rounds > 1 else ''}, {time.monotonic() - start:.0f} s\n")
    print("\n".join([*report.sides(figures, names), "", *lines]))
    plot = options.plot or os.path.join(TOP, "build-bench", "bench.svg")
    report.plot(plot, figures, context)
    print(f"\nplot: {plot}")
    if options.json:
        report.write_json(options.json, figures, context)
    return 0 if passed else 1


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
