"""The arithmetic of the benchmarks: what they say of a target must not depend on chance. What they
measure is not judged here."""

import os
import random
import sys

import pytest

BENCH = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bench")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)


# The interval

@pytest.mark.parametrize("n,kept_out", [(7, None), (8, 0), (11, 0), (12, 1), (16, 2), (24, 5)])
def test_how_many_values_the_interval_leaves_out_at_each_end(n, kept_out):
    """As in tables of the sign test, at 99 %."""
    from confidence import interval
    values = list(range(n))
    random.Random(n).shuffle(values)
    assert interval(values) == (None if kept_out is None else (kept_out, n - 1 - kept_out))


def test_the_interval_contains_the_median_as_often_as_it_says():
    """Of a distribution that is far from normal: half a percent at each side is missed, and not more."""
    from confidence import interval
    chance = random.Random(1)
    missed = 0
    for _ in range(4000):
        least, greatest = interval([chance.paretovariate(1) for _ in range(16)])
        missed += not least <= 2 <= greatest
    assert missed < 4000 * 0.01


# The verdict

def values_around(median, spread, n=16):
    return [median + spread * (i - (n - 1) / 2) / n for i in range(n)]


@pytest.mark.parametrize("target,median,verdict", [
    ({"at_least": 2}, 2.5, "PASS"), ({"at_least": 2}, 1.5, "FAIL"), ({"at_least": 2}, 2.1, "undecided"), ({"at_least": 2}, 1.9, "undecided"),
    ({"at_most": 2}, 1.5, "PASS"), ({"at_most": 2}, 2.5, "FAIL"), ({"at_most": 2}, 2.1, "undecided")])
def test_a_verdict_needs_the_whole_interval(target, median, verdict):
    from confidence import Target
    assert Target(**target).verdict(values_around(median, 0.8)) == verdict


def test_too_few_values_decide_nothing():
    from confidence import Target
    assert Target(at_least=1).verdict([5] * 7) == "undecided"
    assert Target(at_least=1).verdict([5] * 8) == "PASS"


def test_one_disturbed_value_changes_no_verdict():
    from confidence import Target
    assert Target(at_most=2).verdict([1.5] * 15 + [90]) == "PASS"


def test_counts_have_to_agree_and_need_not_be_many():
    from confidence import Target
    assert [Target(at_most=8).verdict_of_counts(v) for v in ([7, 7.5, 8], [9], [7, 9])] == ["PASS", "FAIL", "undecided"]


@pytest.mark.parametrize("median,more,verdict", [(1.2, True, "better"), (1.2, False, "worse"), (0.8, True, "worse"), (0.8, False, "better"),
                                                 (1.0, True, "undecided")])
def test_two_builds(median, more, verdict):
    from confidence import difference
    assert difference(values_around(median, 0.2), more) == verdict
    assert difference(values_around(1, 0.02), more) == "no difference"


# Rounds

class Side:
    """Measures what it is told, and notes when it was open."""

    def __init__(self, values, name, order, after=()):
        self.values, self.name, self.order, self.after = values, name, order, after
        self.opened = 0

    def __call__(self):
        return self

    def __enter__(self):
        self.opened += 1

        def measure(seconds, round):
            assert set(self.after) <= set(round)
            self.order.append(self.name)
            return {"rate": next(self.values)}
        return measure

    def __exit__(self, *_):
        pass


def case_of(target, most_rounds=24, after=None):
    from rows import Case, Row
    return Case("case", "", "", {}, [Row("row", "a row", "ours.rate", "peer.rate", at_least=target)], after=after, most_rounds=most_rounds)


def measured(case, ratios, third=False):
    import itertools
    from measure import measure, undecided_targets
    order = []
    sides = {"peer": Side(itertools.repeat(10), "peer", order), "ours": Side((10 * r for r in itertools.cycle(ratios)), "ours", order)}
    if third:
        sides["floor"] = Side(itertools.repeat(1), "floor", order, ["ours"])
    return measure(case, sides, undecided_targets(case.rows)), order, sides


def test_a_row_is_measured_until_it_is_decided():
    case = case_of(2)
    result, order, sides = measured(case, [3, 4])
    assert result.rounds == 8 and case.rows[0].values(result.figures) == [3, 4] * 4
    assert sides["ours"].opened == 2, "all sides start again after four rounds"


def test_and_not_for_ever():
    case = case_of(2)
    result, _, _ = measured(case, [1, 3])
    assert result.rounds == 24 and case.rows[0].verdict(case.rows[0].values(result.figures)) == "undecided"


def test_when_time_is_short_a_row_gets_the_rounds_that_a_verdict_needs():
    import itertools
    from confidence import ROUNDS_LEAST, interval
    from measure import measure, undecided_targets
    assert interval([1] * ROUNDS_LEAST) and not interval([1] * (ROUNDS_LEAST - 1))
    case = case_of(2)
    sides = {"peer": Side(itertools.repeat(10), "peer", []), "ours": Side(itertools.cycle([10, 30]), "ours", [])}
    assert measure(case, sides, undecided_targets(case.rows, in_time=lambda: False)).rounds == ROUNDS_LEAST


def test_rounds_go_to_and_fro_and_a_floor_follows_what_it_needs():
    _, order, _ = measured(case_of(2, after={"floor": "ours"}), [3], third=True)
    assert order[:6] == ["peer", "ours", "floor", "ours", "floor", "peer"]


def test_a_side_that_cannot_be_had_is_named_and_the_others_are_measured():
    from harness.packages import Missing
    from measure import measure, undecided_targets
    case, order = case_of(2), []

    def absent():
        raise Missing("there is no peer")
    result = measure(case, {"peer": absent, "ours": Side(iter(range(1, 99)), "ours", order)}, undecided_targets(case.rows))
    assert result.missing == {"peer": "there is no peer"} and case.rows[0].values(result.figures) is None
    assert order == ["ours"] * 4


# Rows

def test_which_figure_shows_a_better_build():
    from rows import Row
    ours = {"ours"}
    assert Row("", "", "ours.rate", "direct.rate", at_least=2).compared(ours) == ("ours.rate", True)
    assert Row("", "", "direct.cpu", "ours.cpu", at_least=2).compared(ours) == ("ours.cpu", False)
    assert Row("", "", "ours.p50", "direct.p50", at_most=2).compared(ours) == ("ours.p50", False)
    assert Row("", "", "direct.p50", at_most=2).compared(ours) is None


def test_each_row_has_its_own_name_and_sides_that_exist():
    from cases import CASES
    names = [case.row_name(row) for case in CASES for row in case.rows]
    assert len(set(names)) == len(names)
    assert [case.row_name(row) for case in CASES for row in case.rows if not row.sides <= set(case.sides)] == []
    assert [case.name for case in CASES if not case.ours & set(case.sides)] == []


# CPU time

def test_cpu_time_of_a_process_counts_what_it_used_and_not_how_long_it_lived():
    import subprocess
    import time
    import cpu
    with subprocess.Popen([sys.executable, "-c", "import time; time.process_time()\nwhile time.process_time() < 0.2: pass\n"
                           "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        used = cpu.process_seconds(process.pid)
        assert 0.15 < used < 5 and process.pid in cpu.descendants(os.getpid())
        time.process_time()
        process.communicate(b"\n")
    assert cpu.process_seconds(process.pid) == 0


def test_what_perf_reports_is_told_by_object():
    from cases.saturated import parts_by_object
    assert parts_by_object("# a comment\n\n    60.00%  [kernel.kallsyms]  \n    20.00%  pgherald\n") == {
        "[kernel.kallsyms]": 0.75, "pgherald": 0.25}


# What other pages quote

def lines_that_quote(page):
    import re
    with open(os.path.join(os.path.dirname(os.path.dirname(BENCH)), page)) as file:
        return re.findall(r"^\| (.*)\| \[RESULTS\]\(\.\./tests/bench/RESULTS\.md\) \|$", file.read(), re.M)


def test_a_whole_run_rewrites_each_figure_that_a_guide_quotes():
    """But for those of about.md, which no run measures."""
    import docs
    from cases import CASES
    with open(os.path.join(BENCH, "about.md")) as file:
        about = file.read()
    for page in (docs.DECISIONS, docs.OPERATING):
        left = [text for text in lines_that_quote(page) if not any(text.startswith(line.begins) for line in docs.LINES if line.page == page)]
        assert [text for text in left if text.split("|")[1].strip() not in about] == []
    cases = {case.name: set(case.sides) for case in CASES}
    assert [line.begins for line in docs.LINES for case, *figures in line.figures
            for figure in figures[:2] if figure and figure.partition(".")[0] not in cases[case]] == []


def test_a_rewritten_line_keeps_its_words():
    import docs
    from report import number
    text = "| a rate, W = 256 | 1,234 /s | [RESULTS](x) |\n| other | 9 us | 8 us |\n"
    one, two = docs.Line("", "a rate", "case", "ours.rate"), docs.Line("", "other", "case", "ours.rate", text="another")
    assert docs.rewritten(text, one, [56789], number) == text.replace("1,234", "56,789")
    assert docs.rewritten(text, two, [1.5, 250], number) == text.replace("other | 9 us | 8 us", "another | 1.5 us | 250 us")
