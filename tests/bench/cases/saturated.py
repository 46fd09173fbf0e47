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
OBJECTS = {"own": "pgherald", "kernel": "[kernel.kallsyms]", "libpq": "libpq.so", "libc": "libc.so"}


def batched(side, width, **named):
    return lambda bench: side(bench, width, "--batch", BATCH, **named)


def against_direct(width, version=""):
    return Row("CPU", f"CPU of all a delivery, transactions of {BATCH}{version}: direct / ours, W = {width}",
               "direct.cpu_delivery", "ours.cpu_delivery", at_least=AGAINST_DIRECT[width])


def on_debian(width):
    rows = []
    if width in AGAINST_DIRECT:
        rows = [against_direct(width),
                Row("Redis", f"the same: Redis pipelined / ours, W = {width}", "redis.cpu_delivery", "ours.cpu_delivery",
                    at_least=AGAINST_REDIS[width])]
    sides = {"direct": batched(direct, width), "ours": batched(ours, width), "floor": partial(floor, width=width),
             "redis": batched(other, width, system="redis"), "nats": batched(other, width, system="nats")}
    return Case("saturated", width, WHAT, sides, rows, after={"floor": "ours"})


def on_version(width, major):
    return Case(f"saturated on PostgreSQL {major}", width, WHAT, {
        "direct": batched(direct, width, major=major), "ours": batched(ours, width, major=major)},
        [against_direct(width, f", PostgreSQL {major}")])


def widest():
    return Case("saturated", WIDEST, WHAT, {"ours": batched(ours, WIDEST), "floor": partial(floor, width=WIDEST)},
                after={"floor": "ours"})


# Where the relay's time goes

def parts_by_object(report):
    """{object: part of these samples}, of what perf report --sort dso prints."""
    cells = [line.split() for line in report.splitlines() if line.strip() and not line.startswith("#")]
    parts = {name: float(part.rstrip("%")) for part, name, *_ in cells}
    return {name: part / sum(parts.values()) for name, part in parts.items()}


class Profile:
    """Samples of a process while this is open."""

    def __init__(self, pid, path):
        self._path = path
        # perf starts its child when it samples already, and ends with it.
        self._perf = subprocess.Popen(
            ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-o", path, "-p", str(pid),
             "--", "sh", "-c", "echo started; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self._perf.stdout.readline() != "started\n":
            raise Missing(f"perf does not work here: {self._perf.communicate()[1].strip()}")

    def parts(self):
        """Ends it. {object: part of the samples}"""
        self._perf.communicate()
        done = subprocess.run(["perf", "report", "-i", self._path, "--stdio", "--sort", "dso"], capture_output=True, text=True)
        return parts_by_object(done.stdout)


@contextlib.contextmanager
def profiled(bench, width):
    """The relay's samples, by the object that the code is in: its own program, libpq, libc, the kernel."""
    if not shutil.which("perf"):
        raise Missing("there is no perf; apt-get install linux-perf")
    path = os.path.join(bench.run.subdirectory("perf"), "data")
    with ours(bench, width, "--batch", BATCH) as measure:
        def share(seconds, round):
            profile = Profile(measure.relay.process.pid, path)
            figures = measure(seconds, round)
            parts = profile.parts()
            if not parts:
                raise Failure("perf has no samples")
            found = {key: 100 * sum(part for name, part in parts.items() if name.startswith(object))
                     for key, object in OBJECTS.items()}
            return {"rate": figures["rate"], **{f"% {key}": value for key, value in found.items()}}
        yield share


def own_code():
    return Case("own code", "", f"Transactions of {BATCH} to 64 workers: where the relay's CPU time goes, by perf.",
                {"ours": partial(profiled, width=64)},
                [Row("own", f"own code, % of the relay's CPU, transactions of {BATCH}, W = 64", "ours.% own", at_most=8)],
                seconds=0.8)
