"""The container: its files name what there is, and its image, made by mmdebstrap, runs."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from harness.procs import children, wait_until
from harness.relay import DAEMON, TOP
from harness.worker import Worker
from machine import INSTALLED, why_not

DIRECTORY = os.path.join(TOP, "container")
CHECK = ["/usr/bin/pgherald", "--check", "/run/pgherald/metrics.sock"]


def containerfile():
    """[(INSTRUCTION, argument)], with lines that go on joined."""
    with open(os.path.join(DIRECTORY, "Containerfile")) as file:
        text = re.sub(r"\\\n", " ", "".join(line for line in file if not line.startswith("#")))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def load(name):
    with open(os.path.join(DIRECTORY, name)) as file:
        return yaml.safe_load(file)


def settings():
    return set(re.findall(r"^ +environment (\w+)", subprocess.run([DAEMON, "--help"], capture_output=True, text=True).stdout, re.M))


def environment_of_image():
    return dict(re.findall(r"(\w+)=(\S+)", next(a for i, a in containerfile() if i == "ENV")))


def test_the_containerfile():
    lines = containerfile()
    stages = [argument for instruction, argument in lines if instruction == "FROM"]
    assert len(stages) == 2 and stages[0].endswith(" AS build") and all(s.startswith("debian:") for s in stages)
    for _, run in (line for line in lines if line[0] == "RUN" and "apt-get" in line[1]):
        assert "--no-install-recommends" in run and "rm -rf /var/lib/apt/lists/*" in run
    single = {i: a for i, a in lines if i in ("USER", "STOPSIGNAL", "ENTRYPOINT", "HEALTHCHECK")}
    assert re.fullmatch(r"\d+:\d+", single["USER"]) and not single["USER"].startswith("0:")
    assert single["STOPSIGNAL"] == "SIGTERM" and json.loads(single["ENTRYPOINT"]) == CHECK[:1]
    assert json.loads(single["HEALTHCHECK"].partition("CMD ")[2]) == CHECK
    assert set(environment_of_image()) <= settings()
    assert environment_of_image()["PGHERALD_METRICS_SOCKET"] == CHECK[2]


def test_what_the_image_builds_with_is_what_tests_need():
    """A package that is missing in one of them would be found only by a build."""
    with open(os.path.join(TOP, "tests", "deps")) as file:
        deps = set(file.read().replace('"', " ").split())
    build = next(a for i, a in containerfile() if i == "RUN")
    assert set(re.findall(r"\b(?:lib[\w-]+-dev|meson|ninja-build|gcc|pkg-config)\b", build)) <= deps


def test_yamllint_has_no_complaint(run):
    if not shutil.which("yamllint"):
        pytest.skip("there is no yamllint")
    rules = "{extends: default, rules: {line-length: {max: 120}, octal-values: {forbid-implicit-octal: false}}}"
    for name in ("compose.yaml", "kubernetes.yaml"):
        run.call(["yamllint", "--strict", "-d", rules, os.path.join(DIRECTORY, name)])


def test_the_compose_file():
    services = load("compose.yaml")["services"]
    relay, application = services["relay"], services["application"]
    assert os.path.exists(os.path.join(DIRECTORY, relay["build"]["context"], relay["build"]["dockerfile"]))
    assert set(relay["environment"]) <= settings()
    assert relay["volumes"] == application["volumes"] and relay["read_only"] and relay["cap_drop"] == ["ALL"]
    assert application["depends_on"]["relay"]["condition"] == "service_healthy"


def test_the_manifest():
    pod = load("kubernetes.yaml")["spec"]["template"]["spec"]
    relay, = pod["initContainers"]
    assert relay["restartPolicy"] == "Always"
    names = {e["name"]: e.get("value") for e in relay["env"]}
    assert set(names) - {"PGPASSFILE"} <= settings()
    assert float(names["PGHERALD_DRAIN"]) < pod["terminationGracePeriodSeconds"]
    for probe in ("startupProbe", "readinessProbe"):
        assert relay[probe]["exec"]["command"] == CHECK and relay[probe]["timeoutSeconds"] > 5
    security = relay["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"]["drop"] == ["ALL"] and pod["securityContext"]["runAsNonRoot"]
    mounts = [m for c in (relay, *pod["containers"]) for m in c["volumeMounts"] if m["name"] == "sockets"]
    assert len(mounts) == 2 and len({m["mountPath"] for m in mounts}) == 1
    assert [v for v in pod["volumes"] if v["name"] == "sockets" and "emptyDir" in v]


@pytest.fixture(scope="session")
def image(run):
    """The root of the image's second stage, without its metadata."""
    reason = why_not() or (None if shutil.which("mmdebstrap") else "there is no mmdebstrap")
    if reason:
        pytest.skip(reason)
    binary = os.path.join(INSTALLED, "relay", "pgherald")
    if "libasan" in subprocess.run(["ldd", binary], capture_output=True, text=True).stdout:
        pytest.skip("an image has no sanitizers: set PGHERALD_INSTALLED_BUILD")
    root = os.path.join(run.subdirectory("image"), "root")
    lines = containerfile()
    last = max(i for i, line in enumerate(lines) if line[0] == "FROM")
    suite = re.fullmatch(r"debian:(\w+)-slim", lines[last][1])[1]
    install = next(a for i, a in lines[last:] if i == "RUN")
    packages = re.search(r"--no-install-recommends +(.*?) +&&", install)[1].split()
    run.call(["mmdebstrap", "--quiet", "--variant=minbase", "--include=" + ",".join(packages), suite, root])
    for command in re.findall(r"install -d [^&]*", install):
        run.call(["chroot", root, "sh", "-c", command])
    shutil.copy(binary, os.path.join(root, "usr/bin/pgherald"))
    yield root
    run.call(["rm", "-rf", "--one-file-system", root])


@pytest.mark.long
def test_the_image_runs(run, image, own_pg, own_db, cleanup):
    """As Kubernetes runs it: another user, nothing writable but the sockets, the database is not there yet."""
    sockets = run.subdirectory("sockets")
    user, group = next(a for i, a in containerfile() if i == "USER").split(":")
    os.chown(sockets, int(user), int(group))
    own_pg.stop()
    environment = {**environment_of_image(), "PGHERALD_DRAIN": "600",
                   "DATABASE_DIRECT_URL": f"postgresql://app@127.0.0.1:{own_pg.port}/{own_db.name}"}
    log = os.path.join(sockets, "log")
    with open(log, "wb") as out:
        process = run.spawn(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--as-pid2", "--read-only",
             "--link-journal=no", "--kill-signal=SIGTERM", "-D", image,
             f"--bind={sockets}:/run/pgherald", *(f"--setenv={k}={v}" for k, v in environment.items()),
             "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all",
             "--no-new-privs", "/usr/bin/pgherald"],
            {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}, stdout=out, stderr=out)

    def text():
        with open(log, errors="replace") as file:
            return file.read()

    def relay():
        for pid in children(process.pid):
            for own in [pid, *children(pid)]:
                try:
                    with open(f"/proc/{own}/comm") as comm:
                        if comm.read() == "pgherald\n":
                            return own
                except (FileNotFoundError, ProcessLookupError):
                    pass  # it has ended since
        return None

    def check():
        done = subprocess.run(["nsenter", f"--target={relay()}", "--mount", "--root", *CHECK], capture_output=True, text=True)
        return done.returncode
    try:
        wait_until(lambda: relay() and "cannot be connected to" in text(), lambda: f"it waits: {text()}", 60)
        assert check() == 1
        own_pg.start()
        wait_until(lambda: check() == 0, lambda: f"it is healthy: {text()}", 30)
        worker = cleanup.add(Worker(os.path.join(sockets, "relay.sock")))
        worker.publish("alice")
        own_pg.stop("immediate")
        worker.sees("down")
        assert check() == 1
        own_pg.start()
        wait_until(lambda: check() == 0, "it is healthy again", 30)
        os.kill(relay(), 15)
        wait_until(lambda: check() == 1, "it drains")
        worker.ping()
        worker.close()
        wait_until(lambda: process.poll() is not None, "it ends")
    finally:
        process.terminate()
        process.wait()
