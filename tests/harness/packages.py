"""The packages of client/ for other languages, installed as their users do, and programs that are
written with them. What is made stays in build-run/packages for the next run."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile

from harness.relay import CAT, TOP

MADE = os.path.join(TOP, "build-run", "packages")
GO = os.path.join(TOP, "client", "go")
NODE = os.path.join(TOP, "client", "node")
PYTHON = os.path.join(TOP, "client", "python")
MAKE_SECONDS = 300
FETCH_SECONDS = 20  # for npm to get one package


class Missing(Exception):
    """It cannot be made here. The text says why."""


def _need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"there is no {program}")


def _call(argv, cwd, **environment):
    try:
        done = subprocess.run(argv, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=MAKE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(argv)} takes longer than {MAKE_SECONDS} s") from None
    return done.returncode, done.stdout


def _hash_of(*directories):
    """Of the files in these directories."""
    digest = hashlib.sha256()
    for directory in directories:
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and name != "package-lock.json":
                with open(path, "rb") as file:
                    digest.update(name.encode() + b"\0" + file.read())
    return digest.hexdigest()[:16]


def _made_once(language, version, make):
    """A directory that make(directory) has filled, perhaps in an earlier run."""
    directory = os.path.join(MADE, f"{language}-{version}")
    os.makedirs(MADE, exist_ok=True)
    with open(os.path.join(MADE, f"{language}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(directory):
            new = tempfile.mkdtemp(dir=MADE)
            os.chmod(new, 0o755)
            make(new)
            os.rename(new, directory)
    return directory


# Go

def go(*arguments, cwd=GO):
    """Runs the go command, with Debian's packages in place of downloads. Returns its output."""
    _need("go")
    flags = "-buildvcs=false" + (" -modfile=debian.mod" if os.path.samefile(cwd, GO) else "")
    os.makedirs(MADE, exist_ok=True)
    status, output = _call(["go", *arguments], cwd, GOCACHE=os.path.join(MADE, "go-cache"), GOPATH=os.path.join(MADE, "go-path"),
                           GOFLAGS=flags, GOPROXY="off", GOTOOLCHAIN="local", GOWORK="off", GO111MODULE="on")
    assert status == 0, output
    return output


def go_program(package, cwd=GO):
    """Builds a package main, and returns the path of the program."""
    path = os.path.join(MADE, "go-" + package.replace("./", "").replace("/", "-"))
    go("build", "-o", path, package, cwd=cwd)
    return path


# Node

def _npm(*arguments, cwd):
    _need("node", "npm")
    cache = os.path.join(MADE, "npm-cache")
    return _call(["npm", *arguments, "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--cache", cache,
                  f"--fetch-timeout={1000 * FETCH_SECONDS}", "--fetch-retries=1"], cwd)


def npm_pack(directory):
    """Packs the package into this directory, and returns the path of the archive."""
    os.makedirs(directory, exist_ok=True)
    status, output = _npm("pack", NODE, "--pack-destination", directory, cwd=directory)
    assert status == 0, output
    return os.path.join(directory, output.split()[-1])


def npm_install(directory, what):
    """Installs it and what it needs, of which the registry has some."""
    with open(os.path.join(directory, "package.json"), "w") as file:
        file.write("{}")
    status, output = _npm("install", what, cwd=directory)
    if status != 0:
        raise Missing(f"npm does not install {what}: {output[-500:]}")


@functools.cache
def _node_modules():
    """The directory, or the Missing that says why it cannot be made. A registry that does not answer is tried once a process."""
    try:
        return _made_once("node", _hash_of(NODE, os.path.join(NODE, "lib")), lambda new: npm_install(new, npm_pack(new)))
    except Missing as why:
        return why


def node_modules():
    """A directory in which a program finds the package, installed from what npm packs."""
    made = _node_modules()
    if isinstance(made, Missing):
        raise made
    return made


def node_program(path):
    """A program next to node_modules, and the command that runs it."""
    copy = os.path.join(node_modules(), os.path.basename(path))
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(copy), delete=False) as file, open(path, "rb") as original:
        file.write(original.read())
    os.rename(file.name, copy)
    return ["node", copy]


# Python

def _pip(python, *arguments, cwd):
    status, output = _call([python, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", *arguments], cwd)
    assert status == 0, output


@contextlib.contextmanager
def _copy_of_python():
    """pip writes into the tree from which it builds."""
    with tempfile.TemporaryDirectory() as directory:
        yield shutil.copytree(PYTHON, os.path.join(directory, "python"), ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))


def pip_install(directory):
    """Makes a virtual environment in this directory with the package. What the package needs is
    Debian's."""
    if not os.path.exists("/usr/share/python-wheels"):
        raise Missing("there is no python3-venv")
    status, output = _call(["/usr/bin/python3", "-m", "venv", "--system-site-packages", directory], "/")
    if status != 0:
        raise Missing(f"python3 -m venv fails: {output}")
    with _copy_of_python() as tree:
        _pip(os.path.join(directory, "bin", "python3"), "install", "--quiet", "--no-index", "--no-build-isolation", tree, cwd=tree)


def pip_wheel(directory):
    """Builds a wheel into this directory, and returns its path."""
    with _copy_of_python() as tree:
        _pip("/usr/bin/python3", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", directory, tree,
             cwd=tree)
    return os.path.join(directory, os.listdir(directory)[0])


def python_with_package():
    """The python3 of a virtual environment that has the package as it is now."""
    return os.path.join(_made_once("python", _hash_of(PYTHON, os.path.join(PYTHON, "pgherald")), pip_install), "bin", "python3")


def python_program(path):
    return [python_with_package(), path]


# Programs that do what pgherald-cat does, by language: functions that return the command, or raise Missing.

def _c():
    if not os.path.exists(CAT):
        raise Missing(f"there is no {CAT}")
    return [CAT]


CATS = {
    "c": _c,
    "go": lambda: [go_program("./examples/cat")],
    "node": lambda: node_program(os.path.join(NODE, "examples", "cat.mjs")),
    "python": lambda: python_program(os.path.join(PYTHON, "examples", "cat.py")),
}
