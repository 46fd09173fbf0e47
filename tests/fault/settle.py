"""The end of a run, without further faults. Everything that is owed is heard, every
checkpoint moves past a last change, every worker is live, and then, in the calm, no change
is announced without need."""

import time

from ear import CALM, LAST
from harness.procs import wait_until
from report import report
from verdict import judge

RELAYS_SECONDS = 60    # until all relays hear
OWED_SECONDS = 90      # until everything owed is heard, except by workers that read at their own pace
TRICKLE_SECONDS = 30   # without anything new, for those workers: longer than a relay may keep them waiting
RESTS_SECONDS = 30     # until no relay writes any more
MOVES_SECONDS = 30     # until every checkpoint is past a last change, and every worker has heard it
QUIET_SECONDS = 20     # for what is kept for a while after the last fault
CALM_CHANGES = 15      # of each kind, on each channel
CALM_PAUSE = 0.05


def settle(system):
    """Returns the verdict."""
    system.driver.let_go()
    for writer in system.writers:
        writer.close()
    for member in system.members:
        member.hurry()
    if system.timestamps:
        _hear_all(system, 10)
    else:
        if _left(system, lambda: not system.all_listen(), RELAYS_SECONDS):
            system.model.stand(f"not all relays hear PostgreSQL within {RELAYS_SECONDS} s")
        _hear_all(system, OWED_SECONDS)
        told = set(_all_move(system, LAST, 1))
        wait_until(lambda: system.ear.told >= told, "the driver's LISTEN hears")
        if not system.model.stands:
            told = _all_move(system, CALM, CALM_CHANGES)
            if not system.ear.told >= set(told):
                system.model.error("the driver's LISTEN was lost in the calm")
            _rest(system)
    time.sleep(0.2)
    system.take()
    if system.timestamps:  # there is no key: the relays wake each other, and are never quiet
        system.watch.finish(0)
        grown = []
    else:
        grown = system.watch.finish(QUIET_SECONDS)
    verdict = judge(system, system.site.present())
    figures = {"seed": system.seed, **verdict.figures, "processes": system.watch.figures()}
    return verdict._replace(errors=[*verdict.errors, *grown], figures=figures, report=report(figures))


def _left(system, find, seconds, progresses=False):
    """Wait until nothing remains in the way. find() returns what does; returns what remains
    at the deadline. progresses: there is no deadline as long as less and less remains."""
    end = time.monotonic() + seconds
    least = None
    while True:
        system.take()
        left = find()
        if not left or time.monotonic() > end:
            return left
        if progresses and (least is None or len(left) < least):
            end, least = time.monotonic() + seconds, len(left)
        time.sleep(0.1)


def _hear_all(system, seconds):
    """What the database has is owed. The verdict finds what is missing at the end."""
    model, present = system.model, system.site.present()

    def missing(members):
        return [user for m in members for user in model.owed(m, present) if not m.heard[user]]
    _left(system, lambda: missing([m for m in system.members if not m.trickles]), seconds)
    for member in system.members:
        if member.trickles:
            _left(system, lambda: missing([member]), TRICKLE_SECONDS, progresses=True)
            _reads_to_the_end(system, member)


def _reads_to_the_end(system, member):
    """It reads at its own pace what it is owed twice, too, before it comes to what is new."""
    end, frames = time.monotonic() + TRICKLE_SECONDS, member.n_frames
    while member.trouble() and time.monotonic() < end:
        system.take()
        if member.n_frames > frames:
            end, frames = time.monotonic() + TRICKLE_SECONDS, member.n_frames
        time.sleep(0.1)


def _all_move(system, what, count):
    """Some changes of each channel with a NOTIFY, as many without (if any relay would find
    them), and then none. Each worker hears them and is live, and each relay's checkpoint
    moves past them. Returns the users of the changes with a NOTIFY."""
    since, told, users = time.monotonic(), [], []
    kinds = ("told", "silent") if system.hosts.n_leaders() else ("told",)
    for n in range(count):
        for channel in system.site.channels:
            for kind in kinds:
                user = f"{what}-{kind}-{channel}-{n}"
                system.driver.commit([user], channel, f"{what}, {kind}", kind == "told")
                users.append((user, channel))
                told += [user] if kind == "told" else []
        time.sleep(CALM_PAUSE)
    moment = system.site.moment()
    for host in _left(system, lambda: [h for h in system.hosts if not system.passed(h, moment, since)], MOVES_SECONDS):
        system.model.stand(f"{host.name} stands: within {MOVES_SECONDS} s none of its checkpoints passes the {what} changes\n"
                           + (host.asked("status") or "it does not answer an operator").rstrip())
    for text in _left(system, lambda: list(_troubles(system, users)), MOVES_SECONDS):
        system.model.stand(text)
    return told


def _rest(system):
    """Nothing happens any more, so no relay writes. A relay that believes no other keeps the
    others awake, and they keep it awake."""
    for host in system.hosts:
        if not host.rights.key:
            host.stop()
    begin = time.monotonic()

    def restless():
        since = max(begin, time.monotonic() - system.longest_interval * 4)
        return time.monotonic() - begin < system.longest_interval * 4 or {
            relay for at, relay in list(system.ear.canaries) if at > since}
    left = _left(system, restless, RESTS_SECONDS)
    if left:
        names = [host.name for host in system.hosts if host.epoch() in left]
        system.model.stand(f"nothing happens, and after {RESTS_SECONDS} s there are still canaries of {', '.join(names)}")


def _troubles(system, users):
    for member in system.members:
        deaf = [user for user, channel in users if not member.heard[user] and member.wants(user, channel)]
        trouble = member.trouble() or (f"has not heard {', '.join(deaf[:5])}" if deaf else None)
        if trouble:
            yield f"{member.name}, of {member.relay.name}, is not live: it {trouble}"
