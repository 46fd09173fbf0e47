"""Publishing, and the sync server's write."""

from functools import partial

from rig import SLOW_DISK
from rows import Case, Row
from sides import publishing

PUBLISHERS = 64
# Announcements that a writer may have outstanding, so that none runs away from the relay.
UNAWAITED = 64


def many():
    """Both cores are busy on either side, so the CPU time tells, of the publishers too."""
    own = partial(publishing, kind="own", publishers=PUBLISHERS)

    def relay(outstanding):
        return lambda bench: publishing(bench, "relay", PUBLISHERS, "--outstanding", outstanding)
    what = "Publishing: a connection each and a round trip a change, or through the relay, with 1 or 16 outstanding."
    return Case("publish", PUBLISHERS, what, {"own": own, "relay 1": relay(1), "relay 16": relay(16)},
                [Row(f"{n} outstanding", f"CPU a publish, {PUBLISHERS} workers, {n} outstanding: own connections / ours",
                     "own.cpu", f"relay {n}.cpu", at_least=target) for n, target in ((1, 2), (16, 8))],
                ours=("relay 1", "relay 16"))


def alone():
    return Case("publish", 1, "One worker alone: from its request to the answer.",
                {"own": partial(publishing, kind="own", publishers=1), "relay": partial(publishing, kind="relay", publishers=1)},
                [Row("time", "time of one NOTIFY of one worker, to its OK: ours / pg_notify on an own connection",
                     "relay.p50", "own.p50", at_most=1.4)], ours=("relay",))


def write():
    def side(kind, *options):
        return lambda bench: publishing(bench, kind, PUBLISHERS, "--insert", *options, server=SLOW_DISK)
    return Case("write", "", "The sync server's write, where a flush of the disk takes 1 ms.",
                {"own": side("own"), "none": side("none"), "relay": side("relay", "--outstanding", UNAWAITED)},
                [Row("rate", f"writes/s, {PUBLISHERS} clients, fsync 1 ms: told of, without waiting / not told of",
                     "relay.rate", "none.rate", at_least=0.85),
                 # What the rate is on a machine that does nothing else, where these clients use up the CPUs.
                 Row("CPU", "the same: CPU a write, not told of / told of", "none.cpu", "relay.cpu", at_least=0.85)],
                ours=("relay",))
