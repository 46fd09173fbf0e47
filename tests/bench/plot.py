"""The plot, in SVG by hand: three charts on logarithmic axes, and how far each row is from its
target."""

import math
import statistics

from confidence import PASS, UNDECIDED, interval

# Without the floor: it sends as many frames a second as the relay did.
SIDES = {"direct": ("#c0392b", "a LISTEN connection each"), "ours": ("#1f6fb2", "pgherald, all changes"),
         "own": ("#17a589", "pgherald, each worker its own users"), "redis": ("#d68910", "Redis pub/sub"),
         "nats": ("#7d3c98", "NATS")}
WIDTHS = (1, 8, 64, 256, 1000)
COLOURS = {PASS: "#8fc1e3", UNDECIDED: "#d9d3a0"}


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


def chart(svg, left, top, outcomes, group, key, title, unit):
    width, height = 300, 240
    lines = {}
    for side in SIDES:
        for result, _ in outcomes:
            values = result.figures.get(f"{side}.{key}") if result.case.group == group else None
            if values:
                lines.setdefault(side, []).append((result.case.label, statistics.median(values), min(values), max(values)))
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
    for w in WIDTHS:
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


def draw(path, outcomes, heading, number):
    rows = [(result, row, row.values(result.figures)) for result, rows in outcomes for row in rows if row.values(result.figures)]
    svg = Svg(1180, 440 + 17 * len(rows) + 30)
    svg.text(40, 26, f"{heading}; medians, lines from least to greatest", size=12, colour="#444")
    chart(svg, 60, 80, outcomes, "transactions", "rate", "One pg_notify a transaction", "notifies/s, every listener hears each")
    chart(svg, 440, 80, outcomes, "saturated", "deliveries", "Transactions of 100", "deliveries/s")
    chart(svg, 820, 80, outcomes, "latency", "p50", "Latency at 200 a second", "median, microseconds")
    for i, (colour, name) in enumerate(SIDES.values()):
        x, y = 60 + i % 3 * 380, 380 + i // 3 * 18
        svg.line([(x, y - 4), (x + 22, y - 4)], colour, 2)
        svg.text(x + 30, y, name)
    top, middle, scale = 440, 700, 90
    svg.text(60, top - 8, "How far each row is from its target (1: just enough; each step is a factor of 2; "
             "thin line: the interval of the median)", weight="bold")
    for i, (result, row, values) in enumerate(rows):
        y = top + 17 * i

        def at(value):
            return middle + scale * max(-2.5, min(4.9, math.log2(max(row.target.goodness(value), 1e-9))))
        x = at(statistics.median(values))
        svg.bar(min(x, middle), y + 2, abs(x - middle) or 1, 11, COLOURS.get(row.verdict(values), "#e59a8f"))
        svg.line([(at(value), y + 7.5) for value in interval(values) or (min(values), max(values))], "#333")
        svg.text(60, y + 12, f"{row.text}", size=11)
        svg.text(1165, y + 12, f"{number(statistics.median(values))} ({row.target})", "end", size=11)
    bottom = top + 17 * len(rows)
    for power in range(-1, 5):
        x = middle + scale * power
        svg.line([(x, top), (x, bottom + 3)], "#999" if power == 0 else "#ddd")
        svg.text(x, bottom + 16, short(2.0 ** power), "middle", colour="#666", size=11)
    svg.save(path)
