"""The table of figures at the end of a run."""

from harness.table import table


def report(figures):
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(figures["kinds"].items()))
    members = figures["members"]
    total = {"member": "all", **{c: sum(m[c] for m in members) for c in members[0] if c != "member"}}
    lines = [f"changes: {figures['changes']} ({kinds}); not in the database at the end: {figures['not_in_the_database']}", ""]
    lines += table(["fault", "times", "seconds"], figures["faults"])
    lines += ["", *table(list(members[0]), [*members, total]), "", *table(list(figures["processes"][0]), figures["processes"])]
    if figures["latency"]:
        lines += ["", *table(list(figures["latency"][0]), figures["latency"]),
                  "(from the return of COMMIT to the callback of a worker that hears all, both threads of this driver; of what was"
                  " notified at once and heard live)"]
    excused = sum(figures["gaps_excused"].values())
    reasons = ", ".join(f"{n} by {reason}" for reason, n in sorted(figures["gaps_excused"].items()))
    return "\n".join([*lines, "", f"lost: {figures['lost']}, gaps: {figures['gaps']}"
                      + (f" and {excused} excused ({reasons})" if excused else "")
                      + f", standing: {figures['stands']}, announced too often: {figures['announced_too_often']}"])
