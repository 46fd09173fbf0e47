"""The median of a sample, where the true median lies, and what that says about a target.

The interval is by order statistics, because it assumes nothing about how the values are
distributed: times on a shared machine have no known distribution. Each value is below the true
median with probability 1/2. So the kth least and the kth greatest value enclose it with a
probability that depends on k and on their number alone."""

import statistics
from math import comb

CONFIDENCE = 0.99
# With fewer values there is no interval of this confidence.
ROUNDS_LEAST = 8
PASS, FAIL, UNDECIDED = "PASS", "FAIL", "undecided"


def interval(values, confidence=CONFIDENCE):
    """The least and the greatest that the true median may be. None: too few values to tell."""
    n, ordered, found, outside = len(values), sorted(values), None, 0
    for k in range((n + 1) // 2):
        outside += 2 * comb(n, k) / 2 ** n
        if outside > 1 - confidence:
            break
        found = ordered[k], ordered[n - 1 - k]
    return found


class Target:
    """At least so much, or at most."""

    def __init__(self, at_least=None, at_most=None):
        assert (at_least is None) != (at_most is None)
        self.least, self.most = at_least, at_most

    def __str__(self):
        return f"≥ {self.least:g}" if self.most is None else f"≤ {self.most:g}"

    def meets(self, value):
        return value >= self.least if self.most is None else value <= self.most

    def goodness(self, value):
        """1 just meets it; more is better."""
        return value / self.least if self.most is None else self.most / value if value else float("inf")

    def verdict(self, values):
        """UNDECIDED while the target lies within the interval, or too few values are known."""
        found = interval(values)
        return self._agreed(found) if found else UNDECIDED

    def verdict_of_counts(self, values):
        """Of what is counted and not timed, such as bytes: all values have to agree, and few do."""
        return self._agreed(values)

    def _agreed(self, values):
        met = {self.meets(value) for value in values}
        return UNDECIDED if len(met) != 1 else PASS if met == {True} else FAIL


BETTER, WORSE, SAME = "better", "worse", "no difference"
# A difference that does not matter: if the interval of a ratio lies within it, two builds are alike.
NEGLIGIBLE = 0.03


def difference(ratios, more_is_better):
    """Between two builds, from the ratios of pairs: this / other."""
    found = interval(ratios)
    if found is None:
        return UNDECIDED
    least, greatest = found
    if 1 - NEGLIGIBLE <= least and greatest <= 1 + NEGLIGIBLE:
        return SAME
    if least > 1 or greatest < 1:
        return BETTER if (least > 1) == more_is_better else WORSE
    return UNDECIDED


median = statistics.median
