"""The figures that README.md and docs/ quote, in their tables: RESULTS.md and they change together."""

import os
import re

from builds import TOP
from confidence import median

DECISIONS, OPERATING, README = "docs/decisions.md", "docs/operating.md", "README.md"
FIRST_FIGURE = re.compile(r"\d[\d,.]*\d|\d")


class Line:
    """One line of a table: how its first cell begins, and the figures that it quotes, as case,
    figure and the figure that it is divided by. us: of nanoseconds. text: what the first cell becomes."""

    def __init__(self, page, begins, case, figure, over=None, us=False, text=None, figures=()):
        self.page, self.begins, self.text = page, begins, text
        self.figures = figures or [(case, figure, over, us)]

    def values(self, results):
        """Of its figures, in order. None: not all were measured."""
        found = [value_of(results, *figure) for figure in self.figures]
        return None if None in found else found


def value_of(results, case, figure, over=None, us=False):
    values = results[case].figures
    if figure not in values or (over and over not in values):
        return None
    ratios = [a / b for a, b in zip(values[figure], values[over])] if over else values[figure]
    return median(ratios) / (1000 if us else 1)


LINES = [
    Line(DECISIONS, "CPU time a notification of host and PostgreSQL", "transactions 256", "direct.cpu", "ours.cpu"),
    Line(DECISIONS, "the same ratio", "latency 1", "direct.cpu", "ours.cpu", text="the same ratio at 200 a second, W = 1"),
    Line(DECISIONS, "20 relays with 16 workers each", "hosts 20", "bare.cpu", "own.cpu",
         text="20 relays with 16 workers each, next to 20 bare listeners: CPU time a notification, theirs / ours"),
    Line(DECISIONS, "relay's CPU time a delivery / a bare loop", "transactions 256", "ours.sender", "floor.sender"),
    Line(DECISIONS, "part of the relay's", "own code", "ours.% kernel",
         text="part of the relay's CPU time in the kernel, transactions of 100, W = 64"),
    Line(DECISIONS, "part in its own code", "own code", "ours.% own"),
    Line(DECISIONS, "frames a send", "transactions 256", "ours.frames"),
    Line(DECISIONS, "median latency at 200 a second", "latency 256", "own.p50"),
    Line(DECISIONS, "the same if all hear all", "latency 256", "ours.p50"),
    Line(DECISIONS, "relay's CPU time a notification, 1,000,000", "subscriptions", "1,000,000.relay", "1,000.relay"),
    Line(DECISIONS, "memory of a subscription", "memory", "ours.subscription"),
    Line(DECISIONS, "memory of a worker", "memory", "ours.worker"),
    Line(DECISIONS, "writes a second of 64 clients", "write", "own.rate"),
    Line(DECISIONS, "the same: commit, then notify", "write", "relay.rate"),
    Line(DECISIONS, "the same without any notification", "write", "none.rate"),
    Line(DECISIONS, "CPU time a publish, 64 workers", "publish 64", "own.cpu", "relay 16.cpu"),
    Line(DECISIONS, "time of a publish of one worker alone", "publish 1", "relay.p50", "own.p50"),
    Line(DECISIONS, "CPU time to decode and encode", "drain", "ours.relay", "ours.bare"),
    Line(OPERATING, "How many notifications a second", "transactions 256", "ours.rate"),
    Line(OPERATING, "And in transactions of 100", "saturated 256", "ours.deliveries"),
    Line(OPERATING, "How long does a change take", "latency 256", "ours.p50"),
    Line(OPERATING, "And if each worker wants its own", "latency 256", "own.p50"),
    Line(OPERATING, "How much do 64 workers publish", "publish 64", "relay 16.rate"),
    Line(OPERATING, "How much memory has an idle relay", "memory", "ours.idle"),
    Line(OPERATING, "And a worker", "memory", "ours.worker"),
    Line(OPERATING, "And a subscription", "memory", "ours.subscription"),
    *(Line(README, text, case, None, figures=[(case, f"{side}.{figure}", None, us) for side in ("direct", "ours")])
      for text, case, figure, us in (("notifications a second, one a transaction", "transactions 256", "rate", False),
                                     ("CPU time of the host", "transactions 256", "cpu", True),
                                     ("median latency", "latency 256", "p50", False))),
]


def rewritten(text, line, values, number):
    """The page with the new figures in this line: one in each cell after the first."""
    def replace(found):
        first, *cells = found[0].strip("|\n").split("|")
        for i, value in enumerate(values):
            cells[i] = FIRST_FIGURE.sub(number(value), cells[i], count=1)
        return "|".join(["", f" {line.text} " if line.text else first, *cells, ""]) + "\n"
    return re.sub(rf"^\| {re.escape(line.begins)}.*\n", replace, text, flags=re.M)


def update(outcomes, number):
    results = {result.case.name: result for result, _ in outcomes}
    for page in dict.fromkeys(line.page for line in LINES):
        path = os.path.join(TOP, page)
        with open(path) as file:
            text = file.read()
        for line in LINES:
            values = line.values(results) if line.page == page else None
            if values:
                text = rewritten(text, line, values, number)
        with open(path, "w") as file:
            file.write(text)
