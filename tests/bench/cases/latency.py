"""From just before the statement is sent to the callback, at 200 a second."""

from functools import partial

from rows import Case, Row
from sides import direct, ours

WIDTHS = (1, 8, 64, 256)
RATE = 200
WHAT = "From just before the statement is sent to the callback, at 200 a second."
AGAINST_DIRECT = {1: 1.2, 8: 0.9, 64: 0.45, 256: 0.4}
# transactions.py judges it for more.
CPU_AGAINST_DIRECT = {1: 0.7, 8: 1.2}
READERS, OTHERS = 4, 60
SECONDS = 0.8


def against_direct(width, version=""):
    rows = [Row("p50", f"latency p50 at {RATE}/s{version}: ours / direct, W = {width}", "ours.p50", "direct.p50",
                at_most=AGAINST_DIRECT[width])]
    if width in CPU_AGAINST_DIRECT:
        rows.append(Row("CPU", f"CPU of host and PostgreSQL a notify at {RATE}/s{version}: direct / ours, W = {width}",
                        "direct.cpu", "ours.cpu", at_least=CPU_AGAINST_DIRECT[width]))
    return rows


def at_rate(side, width, *options, **named):
    return lambda bench: side(bench, width, "--rate", RATE, *options, **named)


def on_debian(width):
    sides = {"direct": at_rate(direct, width), "ours": at_rate(ours, width)}
    rows, named = against_direct(width), ["ours"]
    if width == WIDTHS[-1]:
        sides.update({"own": at_rate(ours, width, "--own"), "direct alone": at_rate(direct, 1)})
        named.append("own")
        rows.append(Row("own", f"the same: ours, {width} workers each on its own users / direct, W = 1",
                        "own.p50", "direct alone.p50", at_most=1.3))
    return Case("latency", width, WHAT, sides, rows, ours=named, seconds=SECONDS)


def on_version(width, major):
    return Case(f"latency on PostgreSQL {major}", width, WHAT, {
        "direct": at_rate(direct, width, major=major), "ours": at_rate(ours, width, major=major)},
        against_direct(width, f", PostgreSQL {major}"), seconds=SECONDS)


def next_to_busy():
    """Others that work, and so do not read, for most of the time."""
    what = f"{READERS} workers that read, at {RATE} a second, while {OTHERS} others work for 20 ms of every 25."
    return Case("busy neighbours", "", what,
                {"alone": at_rate(ours, READERS), "busy": at_rate(ours, READERS + OTHERS, "--busy", OTHERS)},
                [Row("p99", f"latency p99 at {RATE}/s of {READERS} workers that read: with {OTHERS} busy ones / without",
                     "busy.p99", "alone.p99", at_most=1.5)], ours=("busy", "alone"), seconds=1.5)
