"""Transactions of 100, as fast as possible, and how much of the relay's CPU time is its own code's."""

import contextlib
import os
import shutil
import subprocess
from functools import partial

from generator import Failure
from harness.packages import Missing
from rows import Case, Row
from sides import direct, floor, other, ours

WIDTHS = (1, 8, 64, 256)
WIDEST = 1000
BATCH = 100
CLIENTS = 8
WHAT = "Transactions of 100, as fast as they go."
AGAINST_DIRECT = {64: 5, 256: 10}
AGAINST_REDIS = {64: 3, 256: 6}
SAMPLES_A_SECOND = 5000


def against_direct(width, version=""):
    return Row("CPU", f"CPU of all a delivery, transactions of {BATCH}{version}: direct / ours, W = {width}",
               "direct.cpu_delivery", "ours.cpu_delivery", at_least=AGAINST_DIRECT[width])


def on_debian(width):
    rows = []
    if width in AGAINST_DIRECT:
        rows = [against_direct(width),
                Row("Redis", f"the same: Redis pipelined / ours, W = {width}", "redis.cpu_delivery", "ours.cpu_delivery",
                    at_least=AGAINST_REDIS[width])]
    sides = {"direct": lambda bench: direct(bench, width, "--batch", BATCH), "ours": lambda bench: ours(bench, width, "--batch", BATCH),
             "floor": partial(floor, width=width)}
    for system in ("redis", "nats"):
        sides[system] = lambda bench, system=system: other(bench, system, width, "--batch", BATCH)
    return Case("saturated", width, WHAT, sides, rows, after={"floor": "ours"})


def on_version(width, major):
    return Case(f"saturated on PostgreSQL {major}", width, WHAT, {
        "direct": lambda bench: direct(bench, width, "--batch", BATCH, major=major),
        "ours": lambda bench: ours(bench, width, "--batch", BATCH, major=major)},
        [against_direct(width, f", PostgreSQL {major}")])


def widest():
    return Case("saturated", WIDEST, WHAT, {"ours": lambda bench: ours(bench, WIDEST, "--batch", BATCH),
                                            "floor": partial(floor, width=WIDEST)}, after={"floor": "ours"})


# Where the relay's time goes

def parts_by_object(report):
    """{object: part of all samples}, of what perf report --sort dso prints."""
    cells = [line.split() for line in report.splitlines() if line.strip() and not line.startswith("#")]
    return {name: float(part.rstrip("%")) / 100 for part, name, *_ in cells}


@contextlib.contextmanager
def profiled(bench, width):
    """Samples of the relay, by the object that its code is in: its own program, libpq, libc, the
    kernel. perf counts the time of a system call for the kernel."""
    if not shutil.which("perf"):
        raise Missing("there is no perf; apt-get install linux-perf")
    kept = os.path.join(bench.run.subdirectory("perf"), "data")
    with ours(bench, width, "--batch", BATCH) as measure:
        def share(seconds, round):
            perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-o", kept,
                                     "-p", str(measure.relay.process.pid), "--", "sleep", str(seconds)],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            figures = measure(seconds, round)
            _, errors = perf.communicate()
            if not os.path.exists(kept):
                raise Missing(f"perf does not work here: {errors.decode().strip()}")
            parts = parts_by_object(subprocess.run(["perf", "report", "-i", kept, "--stdio", "--sort", "dso"],
                                                   capture_output=True, text=True).stdout)
            if not parts:
                raise Failure("perf has no samples")
            os.remove(kept)
            named = {"own": "pgherald", "kernel": "[kernel.kallsyms]", "libpq": "libpq.so.5", "libc": "libc.so.6"}
            found = {key: 100 * sum(part for name, part in parts.items() if name.startswith(object))
                     for key, object in named.items()}
            return {"rate": figures["rate"], **{f"% {key}": value for key, value in found.items()}}
        yield share


def own_code():
    return Case("own code", "", f"Transactions of {BATCH} to 64 workers: where the relay's CPU time goes, by perf.",
                {"ours": partial(profiled, width=64)},
                [Row("own", f"own code, % of the relay's CPU, transactions of {BATCH}, W = 64", "ours.% own", at_most=8)])
