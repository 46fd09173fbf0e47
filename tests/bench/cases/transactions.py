"""One pg_notify a transaction, from one client, as fast as possible; and the same CPU time seen
from PostgreSQL alone."""

from functools import partial

from rows import Case, Row
from sides import direct, floor, ours

WIDTHS = (1, 8, 64, 256)
WIDEST = 1000  # too many for a connection of each listener's own
RATE = 200
WHAT = "One pg_notify a transaction, one client, as fast as it goes."
# The host's CPU time a notify is what limits the rate, on any number of cores. With few listeners it is latency.py that
# judges it, at a fixed rate: as fast as it goes, it depends on how many notifications come at a wake.
AGAINST_DIRECT = {64: 12, 256: 60}


def against_direct(width, version=""):
    return Row("CPU", f"CPU of host and PostgreSQL a notify{version}: direct / ours, W = {width}", "direct.cpu", "ours.cpu",
               at_least=AGAINST_DIRECT[width])


def on_debian(width):
    rows = []
    if width in AGAINST_DIRECT:
        rows = [against_direct(width), Row("floor", f"CPU a delivery, one a transaction: relay / floor, W = {width}",
                                           "ours.sender", "floor.sender", at_most=1.5)]
    return Case("transactions", width, WHAT, {
        "direct": partial(direct, width=width), "ours": partial(ours, width=width), "floor": partial(floor, width=width),
        "own": lambda bench: ours(bench, width, "--own")}, rows, ours=("ours", "own"), after={"floor": "ours"})


def on_version(width, major):
    return Case(f"transactions on PostgreSQL {major}", width, WHAT, {
        "direct": partial(direct, width=width, major=major), "ours": partial(ours, width=width, major=major)},
        [against_direct(width, f", PostgreSQL {major}")])


def widest():
    return Case("transactions", WIDEST, WHAT, {"ours": partial(ours, width=WIDEST), "floor": partial(floor, width=WIDEST)},
                after={"floor": "ours"})


def of_postgres():
    """What PostgreSQL has to do for one host, whatever its number of workers. At a rate that leaves all
    of them time to read: otherwise PostgreSQL is asked less often where the workers are slower."""
    return Case("CPU of PostgreSQL", "", f"One pg_notify a transaction, {RATE} a second, to a host with W workers.",
                {f"W={width}": lambda bench, width=width: ours(bench, width, "--rate", RATE) for width in WIDTHS},
                [Row(f"W = {width}", f"CPU of PostgreSQL a notify: W = {width} / W = 1", f"W={width}.postgres", "W=1.postgres",
                     at_most=1.2) for width in WIDTHS[1:]], ours=[f"W={width}" for width in WIDTHS])
