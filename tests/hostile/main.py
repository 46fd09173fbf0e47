#!/usr/bin/python3 -B
"""Runs the attack suite: healthy workers of one user at a relay, and attackers of another user, or of a role that may only connect
to the database.

    tests/hostile/run                        each attack, then all mixed
    tests/hostile/run --attacks one-key,tails --seconds 20
    tests/hostile/run --attacks mixed --seconds 60 --untimed

PGHERALD_BUILD names the build directory (default: build). Needs root, for the other users.

First it measures the healthy workers alone, and next to processes that only use the processor, as many as an attack keeps busy:
so what an attacker takes from everybody on the machine is not laid at the relay's door. Then it measures them under each attack.
The relay has the descriptors, the memory and the weight on the processor (CPUWeight=) that its unit gives it.
Ends with a table, and exits with 1 when an attack hurt anybody: when something was lost or refused, came as a GAP or BYE,
when the LISTEN connection was not kept, the relay had more memory than its unit allows, root's status, metrics or health were not
answered, or a resume was not; or when the time from publish to heard was more than 3 times that without the attack. With
--untimed time is reported, and does not count. Exits with 2 when something else went wrong.
"""

import argparse
import os
import random
import sys
import traceback

from attacker import ATTACKS
from harness.procs import Run
from harness.table import table
from scene import Scene, load

RATIO = 3
# Seconds. Below these the queue for the processor decides, and not the relay.
FLOORS = {"p50": 0.005, "max": 0.030}


def ms(seconds):
    return f"{seconds * 1000:.1f}"


def amiss(row, limit):
    """What no attack may do, whatever the time it takes."""
    heard, resumed = row.heard, row.resumed
    if heard["lost"]:
        yield f"{heard['lost']} not heard"
    if heard["unannounced"]:
        yield f"{heard['unannounced']} silent changes not announced"
    for what in ("gaps", "byes", "refused", "upstream"):
        if heard[what]:
            yield f"{len(heard[what])} {what}: {heard[what][0]}"
    if resumed["amiss"]:
        yield f"resumes: {len(resumed['amiss'])}: {resumed['amiss'][0]}"
    if not resumed["resumes"]:
        yield "no resume was answered"
    if not row.listen_kept:
        yield "LISTEN connection not kept"
    if row.rss > limit:
        yield "more memory than MemoryMax="
    if row.root_amiss:
        yield f"root: {len(row.root_amiss)}: {row.root_amiss[0]}"
    if row.did and not row.did["bytes"] + row.did["notifications"]:
        yield "the attacker did nothing"


def too_slow(row, calm, spun):
    for what in ("p50", "max"):
        without = max(calm.heard[what], spun.heard[what])
        if row.heard[what] > max(RATIO * without, FLOORS[what]):
            yield f"{what} more than {RATIO} times"


def ratio(row, without, what):
    return f"{row.heard[what] / without:.1f}"


def line(row, calm, spun, verdicts):
    without = {what: max(m.heard[what] for m in (calm, spun) if m) for what in ("p50", "max")}
    spinning = {what: ms(spun.heard[what]) if spun else "" for what in ("p50", "max")}
    return {"attack": row.name, "heard_p50": ms(row.heard["p50"]), "max": ms(row.heard["max"]), "at_s": f"{row.heard['max_at']:.1f}",
            "calm_p50": ms(calm.heard["p50"]), "max_": ms(calm.heard["max"]),
            "spinning_p50": spinning["p50"], "max__": spinning["max"],
            "times_p50": ratio(row, without["p50"], "p50"), "_max": ratio(row, without["max"], "max"),
            "resume_max": ms(row.resumed["max"]), "root_max": ms(row.root_max), "rss_mib": row.rss >> 20,
            "cpu": f"{row.used:.0%}", "listen": "kept" if row.listen_kept else "LOST", "gaps": len(row.heard["gaps"]),
            "connections": row.did.get("connections", ""),
            "sent": sent(row.did), "verdict": "withstood" if not verdicts else "HURT"}


def sent(did):
    parts = [f"{did['bytes'] / 1e6:.1f} MB"] if did.get("bytes") else []
    return ", ".join(parts + ([f"{did['notifications']} NOTIFYs"] if did.get("notifications") else [])) or "-"


def judge(rows, calm, spins, limit, timed):
    """The lines of the table, and what is wrong."""
    lines, wrong = [], []
    for row in rows:
        spun = spins.get(load(row.name)) if row is not calm else None
        verdicts = list(amiss(row, limit))
        if timed and spun:
            verdicts += too_slow(row, calm, spun)
        wrong += [f"{row.name}: {text}" for text in verdicts]
        lines.append(line(row, calm, spun, verdicts))
    return lines, wrong


def measure(scene, names, seconds, timed):
    calm = scene.calm(seconds if timed else min(seconds, 5))
    rows, spins = [calm], {}
    if timed:
        for count in sorted({load(name) for name in names}):
            spins[count] = scene.spun(count, seconds)
    for name in names:
        print(f"{name} ...", flush=True)
        rows.append(scene.mixed(list(ATTACKS), seconds * (1 if names == ["mixed"] else 5)) if name == "mixed"
                    else scene.attacked(name, seconds))
    return rows, calm, spins


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="how long each attack goes on (default: 5); mixed, among"
                        " others, five times as long")
    parser.add_argument("--seed", help="of the dice; random unless told")
    parser.add_argument("--attacks", help="which, comma-separated (default: all, and mixed); A+B: two at once")
    parser.add_argument("--untimed", action="store_true", help="do not judge by time")
    parser.add_argument("--list", action="store_true", help="print the attacks' names")
    parser.add_argument("--verbose", action="store_true", help="print the relay's log at the end")
    arguments = parser.parse_args()
    every = [*ATTACKS, "mixed"]
    if arguments.list:
        print("\n".join(every))
        return 0
    names = arguments.attacks.split(",") if arguments.attacks else every
    unknown = {one for name in names for one in name.split("+")} - set(every)
    if unknown:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("only root can be several users: run it as root", file=sys.stderr)
        return 2
    seed = arguments.seed or str(random.randrange(10 ** 6))
    print(f"seed {seed}, {arguments.seconds:g} s each", flush=True)
    run = Run()
    try:
        with Scene(run, seed) as scene:
            limit = scene.memory_limit
            try:
                rows, calm, spins = measure(scene, names, arguments.seconds, not arguments.untimed)
            except BaseException:
                print(scene.relay.log(), file=sys.stderr)
                raise
            lines, wrong = judge(rows, calm, spins, limit, not arguments.untimed)
            log = scene.relay.log()
    finally:
        run.close()
    if arguments.verbose or wrong:
        print(log)
    print(report(lines, limit))
    for text in wrong:
        print(f"HURT: {text}")
    print(f"attacks: {len(rows) - 1}, hurt: {len(wrong)}")
    return 1 if wrong else 0


def report(lines, limit):
    return "\n".join([
        "", *table(list(lines[0]), lines), "",
        "(From publish to heard, in ms. Calm: without an attack. Spinning: next to as many processes that only use the processor as the"
        " attack keeps busy. Times: of the greater of the two. In all of them the relay has the CPUWeight= of its unit.\n"
        f" Target: {RATIO} times at the most; but p50 up to {ms(FLOORS['p50'])} and max up to {ms(FLOORS['max'])} count as good,"
        " since two cores need that by themselves when more wish to run.\n"
        f" Memory at the most {limit >> 20} MiB, and the rest of the verdict: see --help.)", ""])


if __name__ == "__main__":
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 2
    sys.exit(status)
