"""Two builds of this project against each other, pair by pair. Both have the same generators, so that
only the relay, the library and the migrations differ."""

import confidence
from measure import measure
from rows import Case


def case_of_both(case, rows, this, other):
    """A case with the sides that the rows are about, of both builds."""
    names = sorted({figure.partition(".")[0] for row in rows for figure, _ in [row.compared(case.ours)]})
    sides = {}
    for name in names:
        make = case.sides[name]
        sides[f"this {name}"] = lambda make=make: make(this)
        sides[f"other {name}"] = lambda make=make: make(other)
    both = Case(case.group, case.label, case.what, sides, seconds=case.seconds, rounds_a_sitting=case.rounds_a_sitting,
                most_rounds=case.most_rounds)
    return both, sides


def ratios(row, case, figures):
    """this / other, one a round. None: one of them is missing."""
    figure, _ = row.compared(case.ours)
    above, below = figures.get(f"this {figure}"), figures.get(f"other {figure}")
    return [a / b if b else 1 if a == b else float("inf") for a, b in zip(above, below)] if above and below else None


def judged(row, case, figures):
    found = ratios(row, case, figures)
    return confidence.difference(found, row.compared(case.ours)[1]) if found else confidence.UNDECIDED


def undecided_differences(case, rows):
    return lambda result: any(judged(row, case, result.figures) == confidence.UNDECIDED for row in rows)


def lines_of(case, rows, result):
    for row in rows:
        found = ratios(row, case, result.figures)
        figure, more = row.compared(case.ours)
        name = f"{case.row_name(row)}: {figure}, {'more' if more else 'less'} is better"
        if not found:
            yield f"{name}: not measured: {result.failure or '; '.join(result.missing.values())}"
            continue
        least, greatest = confidence.interval(found) or (min(found), max(found))
        yield (f"{name}: this / other {confidence.median(found):.3f}, {least:.3f} to {greatest:.3f}, {len(found)} pairs,"
               f" others used {result.load:.2f} CPUs: {judged(row, case, result.figures)}")


def run(cases, this, other, progress):
    """Lines, as they become known."""
    yield f"this:  {this.build.commit} in {this.build.directory}"
    yield f"other: {other.build.commit} in {other.build.directory}"
    for case, rows in cases:
        rows = [row for row in rows if row.compared(case.ours)]
        if not rows:
            continue
        both, sides = case_of_both(case, rows, this, other)
        result = measure(both, sides, undecided_differences(case, rows), this.quick, progress)
        progress.end()
        yield from lines_of(case, rows, result)
