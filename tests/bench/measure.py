"""Measures a case: sitting after sitting, round after round, until every row of it is decided, or
nothing more is worth the time.

A round measures every side once, shortly after each other, so that what disturbs the machine for
longer disturbs all of them; the next round goes the other way round. A sitting starts all
sides again, because two starts of one program differ too: in where its memory lies, and on which
CPU."""

import contextlib

from confidence import ROUNDS_LEAST, UNDECIDED
from generator import Failure
from harness.packages import Missing
from load import Load


QUICK_ROUNDS = 2  # one each way


class Result:
    """What is known of a case."""

    def __init__(self, case):
        self.case = case
        self.figures = {}   # "side.figure": one value a round
        self.missing = {}   # side: why
        self.failure = None
        self.passed = self.others = self.stolen = 0  # seconds

    def add(self, round):
        for side, figures in round.items():
            for name, value in figures.items():
                self.figures.setdefault(f"{side}.{name}", []).append(value)

    @property
    def rounds(self):
        return max(map(len, self.figures.values()), default=0)

    @property
    def load(self):
        """CPUs that others used meanwhile."""
        return (self.others + self.stolen) / self.passed if self.passed else 0


def order_of(names, after, backwards):
    """Those of `after` follow what they need."""
    order = [name for name in names if name not in after]
    order = order[::-1] if backwards else order
    return [name for first in order for name in (first, *(n for n in names if after.get(n) == first))]


def _open(stack, result, sides):
    """What measures each side, without the sides that cannot be had here."""
    measures = {}
    for name, make in sides.items():
        if name in result.missing:
            continue
        try:
            measures[name] = stack.enter_context(make())
        except Missing as why:
            result.missing[name] = str(why)
    return measures


def _sit(result, sides, seconds, rounds):
    case = result.case
    with contextlib.ExitStack() as stack:
        measures = _open(stack, result, sides)
        load = Load()
        for number in range(rounds):
            round = {}
            for name in order_of(measures, case.after, backwards=number % 2):
                round[name] = measures[name](seconds, round)
            result.add(round)
        passed, others, stolen = load.taken()
    result.passed, result.others, result.stolen = result.passed + passed, result.others + others, result.stolen + stolen


def measure(case, sides, undecided, quick=False, progress=lambda result: None):
    """sides: functions that make them, by name. undecided: whether a result needs more rounds."""
    result = Result(case)
    seconds, rounds = (case.seconds / 3, QUICK_ROUNDS) if quick else (case.seconds, case.rounds_a_sitting)
    try:
        while result.rounds < case.most_rounds:
            progress(result)
            _sit(result, sides, seconds, rounds)
            if quick or not undecided(result):
                break
    except (AssertionError, Failure) as failure:
        result.failure = str(failure)
    return result


def undecided_targets(rows, in_time=lambda: True):
    """A row without its sides is not waited for. Cases without rows are measured in one sitting.
    in_time: if not, a row gets only the rounds without which there is no verdict."""
    def waits(row, values):
        return values and row.verdict(values) == UNDECIDED and (in_time() or len(values) < ROUNDS_LEAST)
    return lambda result: any(waits(row, row.values(result.figures)) for row in rows)
