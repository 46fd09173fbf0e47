"""A relay whose way to PostgreSQL leads through a liar, and what must hold for it."""

import pytest

from harness.procs import wait_until
from harness.subscriber import subscriber

# A choice of them runs always.
LIES = ["no-row", "two-rows", "endless",
        *(pytest.param(how, marks=pytest.mark.long) for how in ("one-column", "nulls", "nothing"))]
MEMORY_MAX = 128 << 20  # bytes more than before; a relay that kept all rows would need four times as much


def is_live(host):
    return '"state":"live"' in host.ops("upstream json")


def survives(host, liar, data, fragment, how, provoke):
    """Lie until the lie was told, while the relay is made to ask. Afterwards everything must
    be as before."""
    worker = subscriber(host)
    before = host.rss()
    liar.lie(fragment, how)

    def told():
        provoke()
        return liar.told > 0
    wait_until(told, f"the statement with {fragment}", 30)
    peak = host.rss()
    liar.honest()
    wait_until(lambda: is_live(host), "the upstream", 60)
    user = f"after-{how}-{abs(hash(fragment))}"
    data.write(user)
    worker.wait_until(lambda: user in worker.pubkeys, f"what is written after {how} of {fragment}", 60)
    assert max(peak, host.rss()) - before < MEMORY_MAX, (before, peak, host.rss())
    worker.close()
