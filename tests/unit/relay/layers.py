#!/usr/bin/python3
"""The relay's folders stand on each other: a file includes nothing from above, a folder nothing from beside it, and nothing in
fanout/ reaches libpq. Prints each include that breaks this. Usage: layers.py RELAY_DIRECTORY"""

import os
import re
import sys

# What each folder may include, beside itself and proto/. "": the files of relay/ itself.
BELOW = {
    "base": set(),
    "postgres": {"base"},
    "fanout": {"base"},
    "recovery": {"base", "postgres", "fanout"},
    "ops": {"base", "postgres", "fanout", "recovery"},
    "": {"base", "postgres", "fanout", "recovery", "ops"},
}


def includes(path):
    with open(path) as file:
        return re.findall(r'^#include ["<]([^">]+)[">]', file.read(), re.MULTILINE)


def reaches(files, name, what, seen):
    """The way from a file to a header, by the files that stand on it; [] when there is none."""
    for include in files.get(name, ()):
        if include == what:
            return [name, what]
        if include not in seen:
            seen.add(include)
            way = reaches(files, include, what, seen)
            if way:
                return [name, *way]
    return []


def main(top):
    files = {}
    for directory, _, names in os.walk(top):
        for name in names:
            if name.endswith((".c", ".h")):
                path = os.path.join(directory, name)
                files[os.path.relpath(path, top)] = includes(path)
    wrong = []
    for name, included in sorted(files.items()):
        folder = os.path.dirname(name)
        allowed = BELOW[folder] | {folder}
        for include in included:
            if include in files and os.path.dirname(include) not in allowed:
                wrong.append(f"relay/{name} includes {include}, which is not below it")
            if os.path.join(folder, include) in files and folder:
                wrong.append(f"relay/{name} includes {include} without its folder")
        if folder == "fanout":
            way = reaches(files, name, "libpq-fe.h", set())
            if way:
                wrong.append(f"relay/{name} reaches libpq: {' -> '.join(way)}")
    for line in wrong:
        print(line)
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
