"""Bounded runs of the fault suite; tests/fault/run does longer ones, and says more."""

import pytest

from faults import FAULTS
from system import one_run
from watch import SLACK, growth

ONE_SERVER = sorted(set(FAULTS) - {"failover"})


def one(run, template, request, seconds=None, **options):
    seed = request.config.getoption("--seed")
    print(f"tests/fault/run --seed {seed}")
    verdict = one_run(run, seed, seconds or request.config.getoption("--seconds"), template=template, **options)
    print(verdict.report)
    if not verdict.good and not options.get("timestamps"):
        print(verdict.details)
    assert verdict.errors == []
    return verdict


def test_nothing_is_lost_and_nobody_is_told_of_a_gap(run, template, request):
    verdict = one(run, template, request, faults=ONE_SERVER)
    assert (verdict.n_lost, verdict.n_gaps) == (0, 0), verdict.lost or verdict.gaps


def test_a_failover_among_the_faults(run, template, request):
    verdict = one(run, template, request, faults=sorted(FAULTS))
    assert (verdict.n_lost, verdict.n_gaps) == (0, 0), verdict.lost or verdict.gaps


@pytest.mark.parametrize("timestamps", [False, True], ids=["snapshots", "timestamps"])
def test_recovery_by_timestamps_loses_what_recovery_by_snapshot_does_not(run, template, request, timestamps):
    """The model must notice the wrong way: the application's clock against updated_at, under the same storm."""
    verdict = one(run, template, request, 8, faults=["terminate-upstream"], timestamps=timestamps, silent=0)
    if timestamps:
        assert verdict.n_lost > 0, "the wrong way was not noticed"
    else:
        assert (verdict.n_lost, verdict.n_gaps) == (0, 0), verdict.lost or verdict.gaps


MIB = 1 << 20


@pytest.mark.parametrize("name, rss, leaks", [
    ("flat", lambda second: 9 * MIB, False),
    ("it grows to its size and stays", lambda second: 9 * MIB + min(second, 300) * 20480, False),
    ("bursts", lambda second: 9 * MIB + (8 * MIB if second % 200 < 20 else 0), False),
    ("it leaks 4 KiB a second", lambda second: 9 * MIB + second * 4096, True),
    ("it leaks, under bursts", lambda second: 9 * MIB + second * 16384 + (4 * MIB if second % 200 < 20 else 0), True),
])
def test_a_leak_is_told_from_a_heap_that_has_found_its_size(name, rss, leaks):
    assert (growth([rss(second) for second in range(1800)]) > SLACK) == leaks
