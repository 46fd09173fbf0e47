"""The figures, as a table, as JSON and as a plot.

    tests/bench/report.py FILE.json PLOT.svg        the table and the plot of figures that were kept
"""

import json
import math
import statistics
import sys

from cases import CASES, ROWS, WIDEST, WIDTHS, Figures

# Without the floor: it sends as many frames a second as the relay did.
SIDES = {"direct": ("#c0392b", "a LISTEN connection each"), "ours": ("#1f6fb2", "pgherald, all changes"),
         "own": ("#17a589", "pgherald, each worker its own users"), "redis": ("#d68910", "Redis pub/sub"),
         "nats": ("#7d3c98", "NATS")}


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures, skipped, failures, cases):
    """Lines, and whether every row that was measured passes."""
    rows, passed = [("", "median", "min", "max", "target", "")], not failures
    for row in ROWS:
        if row.case not in cases:
            continue
        result = row.result(figures)
        if result is None:
            rows.append((row.text, "-", "-", "-", row.target, "SKIPPED" if row.case not in failures else "FAILED"))
            continue
        good = row.passes(result[0])
        passed &= good
        rows.append((row.text, *map(number, result), row.target, "PASS" if good else "FAIL"))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(width) if i in (0, 5) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    lines += [f"skipped: {side}: {why}" for side, why in skipped.items()]
    lines += [f"failed: {case}: {why}" for case, why in failures.items()]
    return lines, passed


def sides(figures, cases):
    """The figures of the ratios: medians, a line for each side and width."""
    units = {"rate": ("/s", 1), "deliveries": ("deliveries/s", 1), "frames": ("frames a send", 1),
             "sender": ("us CPU of the sender a delivery", 1000), "cpu": ("us CPU of all a notify", 1000),
             "relay": ("us CPU of the relay a notify", 1000), "listener": ("us CPU of the worker a delivery", 1000), "p50": ("us p50", 1), "p99": ("us p99", 1)}
    columns = {"transactions": ("rate", "frames", "sender", "cpu"), "saturated": ("deliveries", "frames", "sender"),
               "clients": ("deliveries", "listener"), "latency": ("p50", "p99"), "publish": ("rate",), "write": ("rate",), "subscriptions": ("rate", "relay"),
               "hosts": ("rate", "cpu")}
    for case in CASES:
        lines = {}
        for name in figures.values:
            first, *middle, key = name.split("/")
            if first != case.__name__ or first not in cases or key not in columns.get(first, (key,)):
                continue
            unit, scale = units.get(key, (key, 1))
            lines.setdefault(" ".join(middle), []).append((key, f"{number(figures.median(name) / scale)} {unit}"))
        if lines:
            yield f"{case.__name__}: {case.__doc__}"
        for name, cells in lines.items():
            order = columns.get(case.__name__, ())
            cells.sort(key=lambda cell: order.index(cell[0]) if cell[0] in order else 0)
            yield f"  {name:16} " + ", ".join(text for _, text in cells)


def write_json(path, figures, context):
    with open(path, "w") as file:
        json.dump({**context, "rows": [
            {"row": row.text, "target": row.target, **dict(zip(("median", "min", "max"), result))}
            for row in ROWS for result in [row.result(figures)] if result], "figures": figures.values}, file, indent=1)
        file.write("\n")


# The plot, in SVG by hand: three charts on logarithmic axes, and how far each row is from its target.

class Svg:
    def __init__(self, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
                      f' height="{height}" font-family="sans-serif" font-size="12">',
                      f'<rect width="{width}" height="{height}" fill="white"/>']

    def text(self, x, y, text, anchor="start", size=12, colour="#222", weight="normal"):
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
                          f' fill="{colour}" font-weight="{weight}">{text}</text>')

    def line(self, points, colour, width=1.0):
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def save(self, path):
        with open(path, "w") as file:
            file.write("\n".join([*self.parts, "</svg>", ""]))


def short(value):
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def chart(svg, left, top, figures, case, key, title, unit):
    width, height = 300, 240
    lines = {}
    for side in SIDES:
        for w in (*WIDTHS, WIDEST):
            values = figures.values.get(f"{case}/{side}/{w}/{key}")
            if values:
                lines.setdefault(side, []).append((w, statistics.median(values), min(values), max(values)))
    svg.text(left, top - 22, title, size=13, weight="bold")
    svg.text(left, top - 7, unit, colour="#666", size=11)
    if not lines:
        svg.text(left + width / 2, top + height / 2, "not measured", "middle", colour="#999")
        return
    low = math.floor(math.log10(min(p[2] for points in lines.values() for p in points)))
    high = math.ceil(math.log10(max(p[3] for points in lines.values() for p in points)))

    def at(w, value):
        return (left + width * math.log10(w) / 3.05,
                top + height * (1 - (math.log10(value) - low) / max(high - low, 1)))
    for power in range(low, high + 1):
        y = at(1, 10 ** power)[1]
        svg.line([(left, y), (left + width, y)], "#ddd")
        svg.text(left - 6, y + 4, short(10 ** power), "end", colour="#666", size=11)
    for w in (*WIDTHS, WIDEST):
        x = at(w, 10 ** low)[0]
        svg.line([(x, top + height), (x, top + height + 4)], "#999")
        svg.text(x, top + height + 17, str(w), "middle", colour="#666", size=11)
    svg.text(left + width / 2, top + height + 33, "listeners on the host", "middle", colour="#666", size=11)
    for side, points in lines.items():
        colour = SIDES[side][0]
        svg.line([at(w, median) for w, median, _, _ in points], colour, 2)
        for w, median, least, greatest in points:
            svg.line([at(w, least), at(w, greatest)], colour, 1.5)
            svg.dot(*at(w, median), colour)


def plot(path, figures, context):
    rows = [(row, row.result(figures)) for row in ROWS]
    rows = [(row, result) for row, result in rows if result]
    svg = Svg(1180, 440 + 17 * len(rows) + 30)
    svg.text(40, 26, f"{context['machine']}; medians of {context['rounds']} rounds, lines from least to greatest", size=13,
             colour="#444")
    chart(svg, 60, 80, figures, "transactions", "rate", "One pg_notify a transaction", "notifies/s, every listener hears each")
    chart(svg, 440, 80, figures, "saturated", "deliveries", "Transactions of 100", "deliveries/s")
    chart(svg, 820, 80, figures, "latency", "p50", "Latency at 200 a second", "median, microseconds")
    for i, (colour, name) in enumerate(SIDES.values()):
        x, y = 60 + i % 3 * 380, 380 + i // 3 * 18
        svg.line([(x, y - 4), (x + 22, y - 4)], colour, 2)
        svg.text(x + 30, y, name)
    top, middle, scale = 440, 700, 90
    svg.text(60, top - 8, "How far each row is from its target (1: just enough; each step is a factor of 2; "
             "thin line: least to greatest of the rounds)", weight="bold")
    for i, (row, result) in enumerate(rows):
        y = top + 17 * i

        def at(value):
            return middle + scale * max(-2.5, min(4.9, math.log2(max(row.goodness(value), 1e-9))))
        good = row.passes(result[0])
        x = at(result[0])
        svg.bar(min(x, middle), y + 2, abs(x - middle) or 1, 11, "#8fc1e3" if good else "#e59a8f")
        svg.line([(at(result[1]), y + 7.5), (at(result[2]), y + 7.5)], "#333")
        svg.text(60, y + 12, f"{row.text}", size=11)
        svg.text(1165, y + 12, f"{number(result[0])} ({row.target})", "end", size=11)
    bottom = top + 17 * len(rows)
    for power in range(-1, 5):
        x = middle + scale * power
        svg.line([(x, top), (x, bottom + 3)], "#999" if power == 0 else "#ddd")
        svg.text(x, bottom + 16, short(2.0 ** power), "middle", colour="#666", size=11)
    svg.save(path)


def main():
    with open(sys.argv[1]) as file:
        kept = json.load(file)
    figures = Figures()
    figures.values = kept["figures"]
    names = [case.__name__ for case in CASES]
    print("\n".join([*sides(figures, names), "", *table(figures, {}, {}, names)[0]]))
    plot(sys.argv[2], figures, kept)


if __name__ == "__main__":
    main()
