"""Short runs of the fault suite, and tests of those parts that can run alone.
tests/fault/run does longer runs, and reports more."""

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest

from ear import Announced
from excuses import SOON, Excuses
from hosts import CONDITIONS
from model import Model
from plan import FAULTS, OFTEN, SWITCH_NAMES, steps
from settle import settle
from system import System, one_run
from verdict import announced_too_often
from watch import SLACK, growth

ONE_SERVER = sorted(set(FAULTS) - set(SWITCH_NAMES))


def one(run, template, request, seconds=None, **options):
    seed = request.config.getoption("--seed")
    print(f"tests/fault/run --seed {seed}")
    verdict = one_run(run, seed, seconds or request.config.getoption("--seconds"), template=template, **options)
    print(verdict.report)
    if not verdict.good and not options.get("timestamps"):
        print(verdict.details)
    assert verdict.errors == []
    return verdict


def assert_good(verdict):
    assert (verdict.n_lost, verdict.n_gaps) == (0, 0), verdict.lost or verdict.gaps
    assert (verdict.stands, verdict.repeated) == ([], [])


def test_nothing_is_lost_and_nobody_is_told_of_a_gap(run, template, request):
    assert_good(one(run, template, request, names=ONE_SERVER))


@pytest.mark.parametrize("name", SWITCH_NAMES)
def test_a_switch_of_servers_among_the_faults(run, template, request, name):
    assert_good(one(run, template, request, names=[name, "terminate-upstream", "crash-postgres"]))


def test_relays_that_differ(run, template, request):
    assert_good(one(run, template, request, names=[*ONE_SERVER, *set(CONDITIONS) - {"tracked"}]))


def test_tracked_tables(run, template, request):
    assert_good(one(run, template, request, names=["terminate-upstream", "kill-relay", "crash-postgres", "migration", "overrun",
                                                   "long-transaction", "tracked", "channels"]))


@pytest.mark.parametrize("timestamps", [False, True], ids=["snapshots", "timestamps"])
def test_recovery_by_timestamps_loses_what_recovery_by_snapshot_does_not(run, template, request, timestamps):
    """The model must notice the wrong way: the application's clock against updated_at, under
    the same storm."""
    verdict = one(run, template, request, 8, names=["terminate-upstream"], timestamps=timestamps, silent=0)
    if timestamps:
        assert verdict.n_lost > 0, "the wrong way was not noticed"
    else:
        assert_good(verdict)


def test_a_run_that_is_not_live_at_its_end_says_who_stands(run, template, monkeypatch):
    monkeypatch.setattr("settle.MOVES_SECONDS", 5)
    with System(run, "1", template=template, names=["burst"]) as system:
        system.storm(1)
        system.hosts.all[0].freeze()
        verdict = settle(system)
    assert not verdict.good
    assert [text for text in verdict.stands if text.startswith("relay 0 stands")]
    assert [text for text in verdict.stands if text.startswith("all-0, of relay 0, is not live")]
    assert not [text for text in verdict.stands if text.startswith("relay 1")]


# The plan

def test_one_seed_is_one_sequence():
    names = [*FAULTS]
    assert list(islice(steps("7", names), 50)) == list(islice(steps("7", reversed(names)), 50))
    assert list(islice(steps("7", names), 50)) != list(islice(steps("8", names), 50))


def test_a_short_run_has_a_fair_choice():
    for seed in range(20):
        some = [step.name for step in islice(steps(str(seed), FAULTS), 12)]
        switches = [name for name in some if name in SWITCH_NAMES]
        assert 2 <= len(switches) <= 4, some
        assert len(set(some) - set(switches)) == len(some) - len(switches), "none comes twice before each came once"


def test_all_come_in_turn_and_some_more_often():
    times = Counter(step.name for step in islice(steps("1", FAULTS), 2000))
    assert set(times) == set(FAULTS)
    once = times["set-back"]
    assert all(abs(times[name] - once * OFTEN.get(name, 1)) <= OFTEN.get(name, 1) for name in SWITCH_NAMES), times


# GAPs

class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000
        monkeypatch.setattr("excuses.time.monotonic", lambda: self.now)


def test_a_gap_is_excused_for_its_relay_and_its_time_only(monkeypatch):
    clock, excuses = Clock(monkeypatch), Excuses()
    excuse = excuses.add("a fault", ["relay 0"], times=2, grace=SOON)
    clock.now = 1010
    excuse.close()

    def sort(*times, relay="relay 0", trickles=False):
        gaps = [(at, f"at {at}") for at in times]
        return excuses.sort(SimpleNamespace(relay=relay, gaps=gaps, trickles=trickles))
    assert sort(1001, 1012) == ({"a fault": 2}, [])
    assert sort(999, 1001) == ({"a fault": 1}, ["at 999"])
    assert sort(1001, 1012, 1013) == ({"a fault": 2}, ["at 1013"])
    assert sort(1016) == ({}, ["at 1016"])
    assert sort(1016, trickles=True) == ({"a fault": 1}, [])
    assert sort(1001, relay="relay 1") == ({}, ["at 1001"])


# What is announced

def announced(user, times, first, last, leads=1, faults=(), terms=()):
    """What the verdict finds, in a system whose relays have an interval of a second."""
    model = Model()
    model.disturbed += faults
    ear = SimpleNamespace(announced={user: Announced(times, first, last)},
                          n_terms=lambda begin, end: sum(begin <= at <= end for at in terms))
    hosts = SimpleNamespace(n_leaders=lambda: leads)
    return announced_too_often(SimpleNamespace(model=model, ear=ear, hosts=hosts, longest_interval=1))


@pytest.mark.parametrize("user, times, options, good", [
    ("w1-1", 1, {}, True),
    ("w1-1", 2, {}, False),
    ("w1-1", 2, {"leads": 2}, True),
    ("w1-1", 3, {"leads": 2}, False),
    ("w1-1", 2, {"faults": [(90, 95)]}, False),
    ("w1-1", 2, {"faults": [(90, 99.5)]}, True),
    ("w1-1", 2, {"faults": [(105, 110)]}, False),
    ("w1-1", 14, {"faults": [(90, 110)]}, False),
    ("w1-1", 2, {"terms": [101]}, True),
    ("calm-silent-orders-1", 1, {}, True),
    ("calm-silent-orders-1", 2, {"faults": [(90, 110)]}, False),
    ("calm-told-orders-1", 1, {}, False),
    ("calm-told-orders-1", 1, {"terms": [99]}, True),
    ("calm-told-orders-1", 2, {"terms": [99, 101]}, False),
    ("calm-silent-orders-1", 3, {"leads": 2, "terms": [101]}, True),
])
def test_what_is_announced_too_often(user, times, options, good):
    assert (announced(user, times, 100, 104, **options) == []) == good


# Memory

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
