"""What is installed shows the effects of the compiler flags that make a bug harder to
exploit. Each effect is missing without its flag."""

import glob
import json
import os
import platform
import re
import shutil

import pytest

from machine import INSTALLED

pytestmark = pytest.mark.skipif(not shutil.which("readelf") or not shutil.which("meson"), reason="there is no readelf, or no meson")
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64")

PROGRAMS = ["bin/pgherald", "bin/pgherald-cat"]
LIBRARY = "lib/**/libpgherald.so.*.*.*"
PAGE = 4096


class Binary:
    def __init__(self, run, path):
        self.run = run
        self.path = path

    def readelf(self, what):
        return self.run.call(["readelf", "-W", what, self.path])

    def imports(self):
        return re.findall(r" UND (\w+)@", self.readelf("--dyn-syms"))

    def code(self):
        return self.run.call(["objdump", "-d", "--no-show-raw-insn", self.path])


@pytest.fixture(scope="module")
def root(run):
    root = run.subdirectory("installed")
    run.call(["meson", "install", "-C", INSTALLED, "--no-rebuild", "--quiet", "--destdir", root], cwd="/")
    return root


@pytest.fixture(params=[*PROGRAMS, LIBRARY], ids=["pgherald", "pgherald-cat", "libpgherald"])
def binary(request, run, root):
    path, = glob.glob(os.path.join(root, "**", request.param), recursive=True)
    return Binary(run, path)


def test_its_place_is_random(binary, request):
    assert "Type: DYN" in re.sub(" +", " ", binary.readelf("-h"))
    assert ("Flags: NOW PIE" in binary.readelf("-d")) == ("libpgherald" not in request.node.name)


def test_its_relocations_are_read_only(binary):
    assert "GNU_RELRO" in binary.readelf("-l")
    assert re.search(r"BIND_NOW|Flags: NOW", binary.readelf("-d")), "all of them, at start"


def test_its_stack_is_not_executable(binary):
    stack, = re.findall(r"GNU_STACK .*0x\w+ (\S+) +0x\w+$", binary.readelf("-l"), re.M)
    assert stack == "RW"


def test_it_looks_for_libraries_nowhere_else(binary):
    assert not re.search(r"R(UN)?PATH", binary.readelf("-d"))


def test_an_overrun_on_the_stack_is_noticed(binary):
    """In our own functions. msgpack-c, of which the library contains a copy, is built with
    the flag anyway."""
    functions = re.findall(r"^\w+ <([\w.@]+)>:\n((?:.+\n)+)", binary.code(), re.M)
    noticing = {name.split("@")[0] for name, code in functions if "<__stack_chk_fail" in code}
    assert noticing & {"main", "delivery_queue", "pgherald_open"}


def test_libc_checks_the_sizes_of_buffers(binary):
    assert [name for name in binary.imports() if re.fullmatch(r"__\w+_chk", name) and name != "__stack_chk_fail"]


def test_libc_knows_sizes_that_the_compiler_does_not(run):
    """Level 3 leaves no visible effect of its own in a binary."""
    with open(os.path.join(INSTALLED, "compile_commands.json")) as file:
        ours = [c["command"] for c in json.load(file) if re.match(r"\.\./\.\./(relay|proto|client)/", c["file"])]
    assert len(ours) > 40
    for command in ours:
        assert re.findall(r"-D_FORTIFY_SOURCE=(\d)", command)[-1:] == ["3"], command


@needs_x86
def test_no_frame_jumps_over_the_guard_page(binary):
    """Large stack frames are allocated a page at a time, and each page is touched."""
    code = binary.code()
    steps = [int(step, 16) for step in re.findall(r"sub +\$0x([0-9a-f]{1,8}),%rsp", code)]
    assert max(steps) <= PAGE
    assert (PAGE not in steps) or re.search(r"or[lq] +\$0x0,\(%rsp\)", code)


@needs_x86
def test_indirect_calls_land_on_functions_only(binary, request):
    """The linker does not mark a program for it, because Debian's crt1.o is built without
    it. Each function still has its landing pad."""
    entries = "main" if "libpgherald" not in request.node.name else r"pgherald_\w+"
    found = re.findall(rf"^\w+ <(?:{entries})(?:@@\w+)?>:\n +\w+:\t(\w+)", binary.code(), re.M)
    assert found and set(found) == {"endbr64"}
