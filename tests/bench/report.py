"""The outcome as a table, as JSON, and as RESULTS.md. An outcome is a Result and the rows that were
asked for."""

import json
import os

import builds
import docs
import provenance
import plot
from cases import NEWER
from confidence import FAIL, PASS, interval, median

HERE = os.path.dirname(os.path.abspath(__file__))
# By figure: its unit, and how many of it are one of the unit. In the order in which they are printed.
UNITS = {
    "rate": ("/s", 1), "deliveries": ("deliveries/s", 1), "frames": ("frames a send", 1),
    "sender": ("us CPU of the sender a delivery", 1000), "cpu": ("us CPU of all a notify", 1000),
    "cpu_delivery": ("us CPU of all a delivery", 1000), "postgres": ("us CPU of PostgreSQL a notify", 1000),
    "relay": ("us CPU of the relay a notify", 1000), "listener": ("us CPU of the worker a delivery", 1000),
    "p50": ("us p50", 1), "p99": ("us p99", 1), "seconds": ("s", 1), "memory": ("MiB more", 1), "updates": ("rows/s", 1),
}
# Of a group, the figures that are of interest; all if it is not here.
COLUMNS = {
    "transactions": ("rate", "frames", "sender", "cpu"), "saturated": ("deliveries", "frames", "sender", "cpu_delivery"),
    "clients": ("deliveries", "listener"), "latency": ("p50", "p99", "cpu"), "busy neighbours": ("p50", "p99"),
    "subscriptions": ("rate", "relay"), "hosts": ("rate", "cpu"), "CPU of PostgreSQL": ("rate", "postgres"),
    "hearing": ("rate", "relay", "postgres"), "drain": ("bare", "relay", "jansson"), "publish": ("rate", "cpu", "p50"),
    "write": ("rate", "cpu"),
}
# Figures with these names that are no more than a number.
PLAIN_UNITS = {"drain": {"bare": ("ns bare", 1), "relay": ("ns relay", 1), "jansson": ("ns jansson", 1)},
               "idle": {"relay": ("wakes/s of the relay", 1), "worker": ("wakes/s of the worker", 1)},
               "memory": {"idle": ("MiB idle", 1), "worker": ("bytes a worker", 1), "subscription": ("bytes a subscription", 1)},
               "publish": {"cpu": ("us CPU of all a publish", 1000)}, "write": {"cpu": ("us CPU of all a write", 1000)},
               "tracked": {"cpu": ("us CPU of all a write", 1000)}}


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def context(rig, build, quick, seconds):
    versions = {"Debian": provenance.program_version(rig.program())}
    try:
        versions["newer"] = provenance.program_version(rig.program(NEWER))
    except FileNotFoundError:
        pass
    return {"machine": provenance.kind(), "postgres": list(versions.values()), "commit": build.commit, "quick": quick,
            "seconds": round(seconds)}


def heading(context):
    return (f"{context['machine']}; {' and '.join(context['postgres'])}; commit {context['commit']};"
            f" {context['seconds']} s{'; sizes and times scaled down' if context['quick'] else ''}")


def row_cells(result, row):
    values = row.values(result.figures)
    if not values:
        why = "FAILED" if result.failure else "SKIPPED"
        return row.text, "-", "-", str(row.target), "-", "-", why
    least, greatest = interval(values) or (min(values), max(values))
    if row.counted:
        least, greatest = min(values), max(values)
    return (row.text, number(median(values)), f"{number(least)} to {number(greatest)}", str(row.target), str(len(values)),
            f"{result.load:.2f}", "FAILED" if result.failure else row.verdict(values))


def table(outcomes):
    cells = [("", "median", "interval", "target", "rounds", "others", "")]
    cells += [row_cells(result, row) for result, rows in outcomes for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in cells]
    missing = {side: why for result, _ in outcomes for side, why in result.missing.items()}
    lines += [f"skipped: {side}: {why}" for side, why in missing.items()]
    return lines + [f"failed: {result.case.name}: {result.failure}" for result, _ in outcomes if result.failure]


def passed(outcomes):
    def fails(result, row):
        values = row.values(result.figures)
        return bool(values) and row.verdict(values) == FAIL
    return not any(result.failure or any(fails(result, row) for row in rows) for result, rows in outcomes)


def _of_side(result, side):
    """Its figures as text."""
    group = result.case.group.partition(" on ")[0]
    units = {**UNITS, **PLAIN_UNITS.get(group, {})}
    have = [name.partition(".")[2] for name in result.figures if name.partition(".")[0] == side]
    for name in COLUMNS.get(group, have):
        if name in have:
            unit, scale = units.get(name, (name, 1))
            yield f"{number(median(result.figures[f'{side}.{name}']) / scale)} {unit}"


def figures(outcomes):
    """Medians, a line for each side of each case."""
    group = None
    for result, _ in outcomes:
        if not result.figures:
            continue
        if result.case.group != group:
            group = result.case.group
            yield f"{group}: {result.case.what}"
        for side in dict.fromkeys(name.partition(".")[0] for name in result.figures):
            yield f"  {f'{side} {result.case.label}':22} " + ", ".join(_of_side(result, side))


def write_json(path, outcomes, context):
    with open(path, "w") as file:
        json.dump({**context, "cases": [
            {"case": result.case.name, "others_cpus": result.load, "figures": result.figures, "missing": result.missing,
             "failure": result.failure, "rows": {result.case.row_name(row): row_cells(result, row) for row in rows}}
            for result, rows in outcomes]}, file, indent=1)
        file.write("\n")


def misses(outcomes):
    """The rows that fail, and those that this machine cannot decide."""
    found = [(row, row.values(result.figures)) for result, rows in outcomes for row in rows]
    lines = [f"- {row.text}: {number(median(values))}, target {row.target}: {row.verdict(values)}"
             for row, values in found if values and row.verdict(values) != PASS]
    return lines or ["None."]


def write_results(outcomes, context):
    """All of RESULTS.md, and the figures that other pages quote from it. What does not depend on the
    run is in about.md."""
    with open(os.path.join(HERE, "about.md")) as file:
        about = file.read()
    text = "\n".join([
        "# What it measures to", "",
        "`tests/bench/run --write` made all of this page; [about.md](about.md) is its text.", "",
        f"- machine: {context['machine']}",
        f"- servers: {' and '.join(context['postgres'])}, `fsync` off but where a row says otherwise",
        f"- commit: {context['commit']}", f"- the run took {context['seconds']} s", "",
        "```", *table(outcomes), "```", "", "![The same as a plot](results.svg)", "", "## The figures of the ratios", "",
        "Medians of the same run. The number after a side is W: how many workers, or direct listeners, one host has. All hear",
        'all, unless it says "own".', "", "```", *figures(outcomes), "```", "",
        "## The rows that miss their target", "", *misses(outcomes), "", about])
    with open(os.path.join(builds.TOP, "tests", "bench", "RESULTS.md"), "w") as file:
        file.write(text)
    docs.update(outcomes, number)
    plot.draw(os.path.join(HERE, "results.svg"), outcomes, heading(context), number)
