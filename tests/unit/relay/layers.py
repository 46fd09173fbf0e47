#!/usr/bin/python3
"""The relay's files stand on each other, and no two need each other.

A file includes nothing from a folder above it or next to it, nothing in fanout/ reaches libpq, and no two object files
of the archive need each other's symbols, not even by way of others. Prints each include and each circle that breaks
this. Usage: layers.py RELAY_DIRECTORY ARCHIVE"""

import collections
import os
import re
import subprocess
import sys

# What each folder may include, as well as itself and proto/. "": the files of relay/ itself.
BELOW = {
    "base": set(),
    "postgres": {"base"},
    "fanout": {"base"},
    "recovery": {"base", "postgres", "fanout"},
    "ops": {"base", "postgres", "fanout", "recovery"},
    "": {"base", "postgres", "fanout", "recovery", "ops"},
}

# Pairs of object files that need each other nevertheless: there are none, and there should be none. A circle with one
# of them in it is let pass; a pair that is in no circle any more must be removed from here.
ALLOWED = set()


def includes(path):
    with open(path) as file:
        return re.findall(r'^#include ["<]([^">]+)[">]', file.read(), re.MULTILINE)


def reaches(files, name, what, seen):
    """The way from a file to a header, by the files on it; [] when there is none."""
    for include in files.get(name, ()):
        if include == what:
            return [name, what]
        if include not in seen:
            seen.add(include)
            way = reaches(files, include, what, seen)
            if way:
                return [name, *way]
    return []


def wrong_includes(top):
    files = {}
    for directory, _, names in os.walk(top):
        for name in names:
            if name.endswith((".c", ".h")):
                path = os.path.join(directory, name)
                files[os.path.relpath(path, top)] = includes(path)
    if not files:
        yield f"there are no sources in {top}"
    for name, included in sorted(files.items()):
        folder = os.path.dirname(name)
        allowed = BELOW[folder] | {folder}
        for include in included:
            if include in files and os.path.dirname(include) not in allowed:
                yield f"relay/{name} includes {include}, which is not below it"
            if os.path.join(folder, include) in files and folder:
                yield f"relay/{name} includes {include} without its folder"
        if folder == "fanout":
            way = reaches(files, name, "libpq-fe.h", set())
            if way:
                yield f"relay/{name} reaches libpq: {' -> '.join(way)}"


def needs(archive):
    """{object: {object that it needs: symbol}}"""
    listing = subprocess.run(["nm", "-A", "-g", archive], capture_output=True, text=True, check=True).stdout
    defined, undefined = {}, collections.defaultdict(set)
    # A thin archive, as meson makes it, or one with members in it; meson calls base/config.c base_config.c.o.
    for member, kind, symbol in re.findall(r"([^/:\s]+)\.c\.o:[0-9a-f\s]+([A-Za-z]) (\S+)$", listing, re.M):
        if kind == "U":
            undefined[member].add(symbol)
        elif kind not in "wv":
            defined[symbol] = member
    graph = {member: {} for member in defined.values()}
    for member, symbols in undefined.items():
        for symbol in sorted(symbols):
            if defined.get(symbol, member) != member:
                graph.setdefault(member, {}).setdefault(defined[symbol], symbol)
    return graph


def way(graph, start, end):
    """The shortest way from start to end, with both at its ends; [] when there is none."""
    queue, seen = collections.deque([[start]]), {start}
    while queue:
        path = queue.popleft()
        for needed in graph[path[-1]]:
            if needed == end:
                return [*path, end]
            if needed not in seen:
                seen.add(needed)
                queue.append([*path, needed])
    return []


def circles(graph):
    """The shortest circle through each edge that is in one, once each, from its first member by name."""
    found = set()
    for member, needed in graph.items():
        for other in needed:
            back = way(graph, other, member)
            if back:
                first = back.index(min(back))
                found.add(tuple(back[first:] + back[:first]))
    return sorted(found)


def wrong_circles(graph):
    if len(graph) < 20:
        yield "nm finds too few object files: is the archive the relay's?"
    found = circles(graph)
    for circle in found:
        edges = list(zip(circle, circle[1:] + circle[:1]))
        if ALLOWED.isdisjoint(map(frozenset, edges)):
            yield "these need each other: " + ", ".join(f"{a} calls {graph[a][b]} of {b}" for a, b in edges)
    met = {frozenset(edge) for circle in found for edge in zip(circle, circle[1:] + circle[:1])}
    for pair in sorted(map(sorted, ALLOWED - met)):
        yield f"{' and '.join(pair)} no longer need each other: remove them from ALLOWED"


def main(top, archive):
    wrong = [*wrong_includes(top), *wrong_circles(needs(archive))]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
