"""A case is sides that are measured in turn, round after round, and the rows that judge their
figures."""

from confidence import Target


class Row:
    """A ratio of two figures of the same round, or a figure alone, and its target. A figure is
    named "side.figure"."""

    def __init__(self, name, text, figure, over=None, at_least=None, at_most=None, counted=False):
        self.name, self.text, self.figure, self.over = name, text, figure, over
        self.target = Target(at_least, at_most)
        self.counted = counted

    @property
    def sides(self):
        return {figure.partition(".")[0] for figure in (self.figure, self.over) if figure}

    def values(self, figures):
        """One a round. None: a side is missing."""
        above, below = figures.get(self.figure), figures.get(self.over)
        if not above or (self.over and not below):
            return None
        return [a / b for a, b in zip(above, below)] if self.over else above

    def verdict(self, values):
        return self.target.verdict_of_counts(values) if self.counted else self.target.verdict(values)

    def compared(self, ours):
        """The figure by which two builds are compared, and whether more of it is better. None: the
        row has none of this project's."""
        more = self.target.most is None
        if self.figure.partition(".")[0] in ours:
            return self.figure, more
        if self.over and self.over.partition(".")[0] in ours:
            return self.over, not more
        return None


class Case:
    """group and label: what it measures, and of which width or version. sides: by name, a function
    of a bench that makes it (sides.py). ours: the names of those that are this project. after:
    sides that are measured right after another, because they need its figures."""

    def __init__(self, group, label, what, sides, rows=(), ours=("ours",), after=None, seconds=0.4,
                 rounds_a_sitting=4, most_rounds=24):
        self.group, self.label, self.what, self.sides, self.rows = group, label, what, sides, list(rows)
        self.ours, self.after = set(ours), after or {}
        self.seconds, self.rounds_a_sitting, self.most_rounds = seconds, rounds_a_sitting, most_rounds

    @property
    def name(self):
        return f"{self.group} {self.label}".strip()

    def row_name(self, row):
        return f"{self.name}: {row.name}"
