"""The end: compare what was heard with what was owed, and check everything else that was
promised."""

from collections import Counter
from typing import NamedTuple

from ear import CALM


class Verdict(NamedTuple):
    lost: dict        # member -> users
    gaps: dict        # member -> texts of the GAPs that nothing excuses
    stands: list      # relays and workers that do not go on, in words
    repeated: list    # what was announced more often than PROTOCOL.md allows, in words
    errors: list      # what else went wrong
    figures: dict     # what the report says, for programs
    report: str = ""
    details: str = ""

    @property
    def good(self):
        return not (self.lost or self.gaps or self.stands or self.repeated or self.errors)

    @property
    def n_lost(self):
        return sum(len(users) for users in self.lost.values())

    @property
    def n_gaps(self):
        return sum(len(texts) for texts in self.gaps.values())


def judge(system, present):
    model, members = system.model, system.members
    lost, gaps, excused, rows = {}, {}, Counter(), []
    known = {c.user for c in model.changes()}
    for member in members:
        owed = model.owed(member, present)
        missing = {user for user in owed if not member.heard[user]}
        allowed, bad = system.excuses.sort(member)
        excused.update(allowed)
        if missing:
            lost[member.name] = missing
        if bad:
            gaps[member.name] = bad
        counts = member.heard.copy()
        # what was folded and came again is a duplicate
        heard = member.n_heard_folded + sum(1 for user, n in counts.items() if n > 0 and user in known)
        deliveries = member.n_deliveries_folded + sum(counts.values())
        rows.append({"member": member.name, "owed": member.n_owed_folded + len(owed), "heard": heard,
                     "deliveries": deliveries, "duplicates": deliveries - heard, "recovered": member.n_recovered,
                     "resumed": member.n_resumed, "gaps": len(member.gaps), "lost": len(missing)})
    repeated = announced_too_often(system)
    faults = [{"fault": name, "times": n, "seconds": round(model.seconds[name], 1)}
              for name, n in sorted(model.faults.items())]
    figures = {"changes": model.n_changes, "kinds": dict(model.kinds),
               "not_in_the_database": model.n_changes - len(present), "faults": faults, "members": rows,
               "lost": sum(map(len, lost.values())), "gaps": sum(map(len, gaps.values())), "gaps_excused": dict(excused),
               "stands": len(model.stands), "announced_too_often": len(repeated), "latency": latency_by_minute(model)}
    return Verdict(lost, gaps, model.stands, repeated, model.errors, figures)


def announced_too_often(system):
    """Outside of faults and changes of lead no change is announced twice, and no change that
    was notified is announced. If relays have different channels, each of those that lead may
    announce it. A new term allows one more time. So does a fault, to each leader: what it
    interrupts is tried again. In the calm at the end the lead may change once, because a
    machine may be busy, and no more."""
    model, ear, leads = system.model, system.ear, max(1, system.hosts.n_leaders())
    faults, found = list(model.disturbed), []
    for user, announced in list(ear.announced.items()):
        begin, end = announced.first - system.longest_interval, announced.last
        terms = ear.n_terms(begin, end)
        if not user.startswith(CALM):
            allowed = terms + leads * (1 + sum(1 for a, b in faults if a < end and b > begin))
        else:
            allowed = min(terms, 1) + (0 if user.startswith(CALM + "-told") else leads)
        if announced.times > allowed:
            found.append(f"{user} was announced {announced.times} times in {end - announced.first:.1f} s,"
                         f" where {allowed} are allowed")
    return found


def latency_by_minute(model):
    """From the return of COMMIT in the writer until the witness has decoded the CHANGE, for
    changes that were notified at once and heard live. Both are threads of this driver and
    wait for their turn, so part of the time is the driver's own."""
    rows = []
    for minute, seconds in sorted(model.latencies.items()):
        ordered = sorted(seconds)
        rows.append({"minute": minute + 1, "changes": len(ordered), "p50_ms": round(ordered[len(ordered) // 2] * 1e3, 2),
                     "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1e3, 2)})
    return rows
