"""A setting that cannot work ends the start at once. One line says which setting it is, and
no line contains a password."""

import os
import signal
import socket

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.servers import Bouncer, Postgres, free_port, make_template
from harness.worker import CHANNEL


@pytest.fixture
def start(make_relay):
    """Launch a relay with these URLs."""
    return lambda url, direct, **more: make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=direct, **more).launch()


@pytest.fixture(scope="module")
def other_cluster(run):
    """Another server, from another initdb."""
    pg = Postgres(run, make_template(run)).start()
    yield pg
    pg.close()


@pytest.fixture
def dead_end(cleanup):
    """TCP ports that accept a connection and send nothing, or do not even accept."""
    def make(accepting):
        s = cleanup.add(socket.socket())
        s.bind(("127.0.0.1", 0))
        s.listen(16 if accepting else 0)
        if not accepting:  # fill its queue: the next SYN goes unanswered
            for _ in range(4):
                filler = cleanup.add(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(s.getsockname())
        return s.getsockname()[1]
    return make


def says(line, *words):
    """A line that helps: it contains one word of each of these choices."""
    for choice in words:
        assert any(w.lower() in line.lower() for w in choice.split("|")), f"no word of {choice!r} in {line!r}"


def test_nobody_listens_there(start, db, bouncer):
    port = free_port()
    line = start(bouncer.url(db), f"postgresql://app@127.0.0.1:{port}/{db.name}").fails()
    says(line, "DATABASE_DIRECT_URL|direct", "refused|connect", str(port))


def test_no_such_host(start, db, bouncer):
    line = start(bouncer.url(db), f"postgresql://app@nowhere.invalid/{db.name}").fails()
    says(line, "DATABASE_DIRECT_URL|direct", "nowhere.invalid")


def test_a_port_that_never_answers(start, db, bouncer, dead_end):
    relays = [start(bouncer.url(db), f"postgresql://app@127.0.0.1:{dead_end(accepting)}/{db.name}")
              for accepting in (True, False)]
    for relay in relays:
        says(relay.fails(deadline=15), "DATABASE_DIRECT_URL|direct", "time|answer")


def test_hosts_that_do_not_answer_before_one_that_does(start, db, bouncer, dead_end):
    """Each of them has its time to answer, and the start waits for all."""
    dead = [f"127.0.0.1:{dead_end(accepting)}" for accepting in (True, False, True)]
    hosts = ",".join([*dead, f"127.0.0.1:{db.server.port}"])
    relay = start(bouncer.url(db), f"postgresql://app@{hosts}/{db.name}?target_session_attrs=read-write")
    wait_until(relay._serves, "the start", 30)


def test_a_pool_that_never_answers(start, db, dead_end):
    relay = start(f"postgresql://app@127.0.0.1:{dead_end(True)}/{db.name}", db.direct_url)
    # it may heal, so a relay may also go on trying, but it never serves a worker that could not publish
    try:
        relay.process.wait(15)
    except Exception:
        assert not os.path.exists(relay.path)
    else:
        says(relay.fails(), "DATABASE_URL|publish")


def test_a_wrong_database(start, db, bouncer, pg):
    line = start(bouncer.url(db), pg.url("no_such_database")).fails()
    says(line, "DATABASE_DIRECT_URL|direct", "no_such_database")


def test_a_wrong_user(start, db, bouncer, pg):
    line = start(bouncer.url(db), pg.url(db.name, user="nobody_here")).fails()
    says(line, "DATABASE_DIRECT_URL|direct", "nobody_here")


def test_a_wrong_password(start, own_pg, own_db):
    own_pg.require_password("app", "Correct4Horse")
    right = own_pg.url(own_db.name, password="Correct4Horse")
    wrong = own_pg.url(own_db.name, password="Wrong9Donkey")
    for url, direct, names in ((right, wrong, "DATABASE_DIRECT_URL|direct"), (wrong, right, "DATABASE_URL|publish")):
        relay = start(url, direct)
        relay.secrets += ["Correct4Horse", "Wrong9Donkey"]
        says(relay.fails(), names, "password")
    relay = start(right, right).await_ready()
    relay.secrets += ["Correct4Horse"]
    relay.worker().publish("alice")


def test_a_password_that_is_missing(start, own_pg, own_db):
    own_pg.require_password("app", "Correct4Horse")
    bare = f"postgresql://app@127.0.0.1:{own_pg.port}/{own_db.name}"
    says(start(bare, bare).fails(), "password")


def test_urls_that_reach_different_databases(start, db, bouncer, pg, cleanup):
    other = cleanup.add(pg.database())
    line = start(bouncer.url(db), other.direct_url).fails()
    says(line, "DATABASE_URL", "DATABASE_DIRECT_URL", "different|same|another", "database")


@pytest.mark.versions
def test_urls_that_reach_different_clusters(start, db, bouncer, other_cluster):
    other_cluster.sql(f"CREATE DATABASE {db.name} OWNER app TEMPLATE template0")
    line = start(bouncer.url(db), other_cluster.url(db.name)).fails()
    says(line, "DATABASE_URL", "DATABASE_DIRECT_URL", "different|same|another")


def test_urls_that_reach_copies_of_one_cluster(start, own_pg, template, run, cleanup):
    """A restored copy claims to be the same system. The relay detects it because it hears
    nothing."""
    copy = cleanup.add(Postgres(run, template)).start()
    line = start(own_pg.url("postgres"), copy.url("postgres")).fails()
    says(line, "DATABASE_URL", "DATABASE_DIRECT_URL")


@pytest.mark.parametrize("ignored", ["", "options", "options,client_encoding,extra_float_digits,search_path"],
                         ids=["refuses options", "takes options", "takes everything"])
def test_listen_through_a_transaction_pooler(start, run, pg, db, cleanup, ignored):
    """LISTEN succeeds there, and hears nothing."""
    bouncer = cleanup.add(Bouncer(run, pg, ignored)).start()
    line = start(bouncer.url(db), bouncer.url(db)).fails()
    says(line, "DATABASE_DIRECT_URL", "pool")


def test_listen_through_a_pooler_and_publish_directly(start, db, bouncer):
    """The two URLs swapped."""
    says(start(db.direct_url, bouncer.url(db)).fails(), "DATABASE_DIRECT_URL", "pool")


@pytest.mark.versions
def test_a_standby(start, own_pg, own_db, cleanup):
    standby = cleanup.add(own_pg.standby())
    direct = standby.url(own_db.name)
    relays = [start(own_db.direct_url, direct), start(direct, direct)]
    for relay in relays:
        says(relay.fails(), "DATABASE_DIRECT_URL", "standby")
    says(start(direct, own_db.direct_url).fails(), "DATABASE_URL", "standby|read-only")


@pytest.mark.parametrize("url", [
    "not a url", "postgres//app@127.0.0.1/x", "postgresql://app@127.0.0.1:port/x", "postgresql://app@[::1/x",
    "postgresql://app@127.0.0.1/x?no_such_option=1", "http://127.0.0.1/x", "host=127.0.0.1 no_such_option=1",
    "postgresql://app@127.0.0.1:99999/x"])
@pytest.mark.parametrize("setting", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
def test_a_url_that_does_not_parse(make_relay, db, setting, url):
    urls = {"DATABASE_URL": db.direct_url, "DATABASE_DIRECT_URL": db.direct_url, setting: url}
    says(make_relay(**urls).launch().fails(), setting)


@pytest.mark.parametrize("url, word", [
    ("{}?schema=public", "schema"), ("host=h dbname=d schema=public", "schema"), ("jdbc:{}", "jdbc"),
    ("\"{}\"", "quote"), ("{}?application_name=100%", "%25")])
def test_a_refused_url_names_what_is_wrong(make_relay, db, url, word):
    relay = make_relay(DATABASE_URL=url.format(db.direct_url), DATABASE_DIRECT_URL=db.direct_url)
    line = relay.launch().fails()
    assert "DATABASE_URL" in line and word in line


@pytest.mark.parametrize("before, after", [("", "\n"), (" \t", "\r\n"), ("\ufeff", "\r\n")])
def test_blanks_around_a_url_do_not_count(make_relay, db, before, after):
    """Files and secrets end with a newline."""
    relay = make_relay(DATABASE_DIRECT_URL=before + db.direct_url + after).start()
    relay.worker().publish("alice")
    assert "mode=postgres" in relay.log()


def test_a_url_of_blanks_is_none(make_relay):
    relay = make_relay(DATABASE_DIRECT_URL=" \n").start()
    wait_until(lambda: "mode=local" in relay.log(), "the line that it is ready")


def test_no_part_of_a_password_is_printed_however_it_is_written(start, db, pg, bouncer):
    """Passwords in which @ / : or " is not escaped. What libpq takes for a host, a port or a
    database is still secret."""
    where = f"127.0.0.1:{pg.port}/{db.name}"
    written = [f"postgresql://app:Hunter2{c}Zebra9@{where}" for c in ("@", "/", ":", '"', "%", "?", "#", " ", "%zz", "@@", "/@")]
    written += [
        f"postgresql://app:Hunter2:@Zebra9/@{where}",
        f"postgresql://app@127.0.0.1:{pg.port}/no_such_database?password=Hunter2&Zebra9",
        f"postgresql://app@127.0.0.1:{pg.port}/no_such_database?password=Hunter2@Zebra9&connect_timeout=3",
        f"host=127.0.0.1 port={pg.port} dbname=no_such_database password=Hunter2 Zebra9",
        f"host=127.0.0.1 port={pg.port} dbname=no_such_database password='Hunter2 Zebra9",
        f"host=127.0.0.1 port={pg.port} dbname=no_such_database password = Hunter2\"Zebra9",
        f"postgres:/app:Hunter2@Zebra9@{where}",
        f"app:Hunter2@Zebra9@{where}",
        "Hunter2Zebra9",
    ]
    # Some of these URLs work, as their escaping happens to be right or PostgreSQL trusts everyone; the rest must fail.
    relays = []
    for url in written:
        for url, direct in ((bouncer.url(db), url), (url, db.direct_url), (url, url)):
            relay = start(url, direct)
            relay.secrets += ["Hunter2", "Zebra9"]
            relays.append((direct, relay))
        for _, relay in relays[-3:]:
            relay.settles()
    for written, relay in relays:
        output = relay.log()
        assert "Hunter2" not in output and "Zebra9" not in output, f"{written} is in the log: {output}"


def test_a_password_that_is_a_name_too_is_not_printed(start, db, bouncer, pg):
    """The server's own message contains it: database "..." does not exist."""
    relay = start(bouncer.url(db), pg.url("hunter2zebra9", password="hunter2zebra9"))
    relay.secrets += ["hunter2zebra9"]
    assert "hunter2zebra9" not in relay.fails()


@pytest.mark.parametrize("password", ["x", "s", "e", "on", "a", "exist"])
def test_a_short_password_leaves_the_words_of_messages_alone(start, db, bouncer, pg, password):
    line = start(bouncer.url(db), pg.url("no_such_database", password=password)).fails()
    assert 'database "no_such_database" does not' in line
    assert ("***" in line) == (password == "exist"), "but where it stands by itself it may be the password"


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_standard_stream_that_is_closed_stays_so(make_relay, closed):
    """No file or socket gets its number: the log would be written into it."""
    relay = make_relay()
    redirections = " ".join(f"{fd}{'<' if fd == '0' else '>'}&-" for fd in closed.split())
    relay.launcher = ["sh", "-c", f'exec "$@" {redirections}', "sh", *relay.launcher]
    relay.start()
    worker = relay.connect()
    worker.write(b"\xc1")  # which is logged
    worker.bye()
    for fd in closed.split():
        assert os.readlink(f"/proc/{relay.process.pid}/fd/{fd}") == "/dev/null"
    assert os.stat(relay.path + ".lock").st_size == 0
    assert ("2" in closed) == (relay.log() == "")


@pytest.mark.parametrize("setting, value", [
    ("PGHERALD_CHANNELS", "x" * 64), ("PGHERALD_CHANNELS", "a,,b"), ("PGHERALD_CHANNELS", "a:image"),
    ("PGHERALD_CHANNELS", "a,a:text"), ("PGHERALD_BACKLOG_SIZE", "many"), ("PGHERALD_BACKLOG_SIZE", "-1"),
    ("PGHERALD_CHECKPOINT_INTERVAL", "0"), ("PGHERALD_CHECKPOINT_INTERVAL", "soon"),
    ("PGHERALD_RECONCILE", "perhaps"), ("PGHERALD_RECOVERY_RATE", "-5"),
    ("PGHERALD_SOCKET", "/tmp/" + "x" * 120), ("PGHERALD_SOCKET", "/nonexistent/relay.sock")])
def test_a_setting_that_makes_no_sense(make_relay, setting, value):
    """The message names it. It is never taken for something similar."""
    relay = make_relay(**{setting: value}) if setting != "PGHERALD_SOCKET" else make_relay()
    relay.environment[setting] = value
    says(relay.launch().fails(), setting if setting != "PGHERALD_SOCKET" else "PGHERALD_SOCKET|" + value[:100])


@pytest.mark.parametrize("name, meant", [
    ("PGHERALD_CHANELS", "PGHERALD_CHANNELS"), ("pgherald_channels", "PGHERALD_CHANNELS"), ("PGHERLAD_SOCKET", "PGHERALD_SOCKET"),
    ("PGHERALD_BACKLOG", ""), ("PGHERALD_NO_SUCH_THING", ""), ("DATABASE_DIRECT", "DATABASE_DIRECT_URL"),
    ("DATABASE_DIRCET_URL", "DATABASE_DIRECT_URL"), ("DATABASE_URL_DIRECT", "DATABASE_DIRECT_URL"),
    ("DATABSE_URL", "DATABASE_URL"), ("DATABASE_URI", "DATABASE_URL")])
def test_a_misspelt_variable_is_refused_by_name(make_relay, name, meant):
    line = make_relay(**{name: "postgresql:///x"}).launch().fails()
    assert line.startswith(f"{name} is not a setting;") and (not meant or f"write {meant} " in line)


def test_variables_of_other_programs_are_not_settings(start_relay, db, bouncer):
    """Those of a service that Kubernetes calls pgherald too."""
    relay = start_relay(db, bouncer, DATABASE_HOST="x", DATABASE_URL_2="x", PGHERALD_SERVICE_HOST="10.0.0.1",
                        PGHERALD_PORT="tcp://10.0.0.1:80", PGHERALD_PORT_80_TCP="tcp://10.0.0.1:80", PGDATA="x")
    assert not [line for line in relay.lines("ERROR", "WARNING") if "setting" in line]


def test_local_mode_is_asked_for(make_relay, db):
    line = make_relay(DATABASE_URL=db.direct_url).launch().fails()
    assert "DATABASE_DIRECT_URL is not" in line and "--local" in line
    for relay in (make_relay(), make_relay(flags=["--local"], DATABASE_DIRECT_URL=db.direct_url),
                  make_relay(PGHERALD_LOCAL="yes", DATABASE_URL=db.direct_url)):
        relay.start()
        wait_until(lambda relay=relay: "mode=local" in relay.log(), "the line that it is ready")
        assert relay.ops("status").split("\n")[1].startswith("mode         local")


@pytest.mark.parametrize("place", ["environment", "flag", "file"])
def test_a_refusal_says_from_where_the_value_is_and_what_is_right(make_relay, run, place):
    path = os.path.join(run.subdirectory("conf"), "main.conf")
    with open(path, "w") as file:
        file.write("PGHERALD_WORKERS_MAX=many\n")
    relay = make_relay(**({"PGHERALD_WORKERS_MAX": "many"} if place == "environment" else
                          {"PGHERALD_ENVIRONMENT_FILE": path} if place == "file" else {}),
                       flags=["--workers-max", "many"] if place == "flag" else [])
    line = relay.launch().fails()
    assert line.startswith(f"PGHERALD_WORKERS_MAX (--workers-max, from the {place}; an example: 4096) cannot work: not a number")


@pytest.mark.parametrize("flags", [["--no-such-flag"], ["stray argument"], ["--socket"]])
def test_flags_that_make_no_sense(make_relay, flags):
    line = make_relay(flags=flags).launch().fails()
    assert flags[0] in line and "see pgherald --help" in line


@pytest.mark.parametrize("flags", [["--database-ulr=postgresql://u:Sesame7Open@x/y"], ["postgresql://u:Sesame7Open@x/y"]])
def test_a_url_at_the_wrong_place_shows_no_password(make_relay, flags):
    assert "Sesame7Open" not in make_relay(flags=flags).launch().fails()


def test_settings_that_were_never_written_are_named_once(make_relay):
    """The exit status tells systemd not to try again."""
    relay = make_relay(PGHERALD_ENVIRONMENT_FILE="/run/pgherald-settings/no-such/settings").launch()
    assert relay.wait_exit() == 78
    line, = relay.lines("ERROR")
    assert "there is no /etc/pgherald/no-such.conf" in line and "examples/main.conf" in line


def test_the_password_file_is_named_where_a_password_is_missing_or_wrong(make_relay, own_pg, own_db, run):
    own_pg.require_password("app", "Sesame7Open")
    url = f"postgresql://app@127.0.0.1:{own_pg.port}/{own_db.name}"
    credentials = run.subdirectory("credentials")
    path = os.path.join(credentials, "pgpass")

    def fails(**environment):
        return make_relay(DATABASE_DIRECT_URL=url, HOME="/nonexistent", PGPASSFILE=path, **environment).launch().fails()
    line = fails()  # test_systemd.py has the name that it has under systemd
    assert f"put it into {path}, which only its owner may read" in line
    assert "(DATABASE_DIRECT_URL is from the environment; an example: postgresql://" in line
    with open(path, "w", encoding="utf-8") as file:
        file.write("*:*:*:*:a wrong one\n")
    os.chmod(path, 0o600)
    assert f"; that is {path} (" in fails()


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(make_relay, flag):
    relay = make_relay(flags=[flag])
    assert relay.launch().wait_exit() == 0
    assert relay.stdout().strip() and not relay.log()


def test_what_will_heal_does_not_fail_a_start_again(start_relay, own_db, own_bouncer, own_pg):
    """After a good start, what fails a start does not end a relay."""
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    own_pg.start()
    worker.sees("live")
    worker.publish("alice")
    worker.hears("alice")


def test_a_second_relay_on_a_live_socket_refuses_to_start(make_relay, start_relay, db, bouncer):
    first = start_relay(db, bouncer)
    worker = first.worker()
    second = make_relay(DATABASE_URL=bouncer.url(db), DATABASE_DIRECT_URL=db.direct_url, PGHERALD_SOCKET=first.path)
    second.launch()
    assert second.wait_exit() > 0
    line, = second.lines("ERROR")
    assert first.path in line, line
    worker.publish("alice")
    worker.hears("alice")
    first.worker().publish("bob")  # the path still leads to the first
    worker.hears("bob")


def test_a_second_relay_on_a_live_ops_socket_refuses_to_start(make_relay):
    first, second = make_relay().start(), make_relay()
    second.environment["PGHERALD_OPS_SOCKET"] = first.ops_path
    assert first.ops_path in second.launch().fails()
    assert first.ops("status")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_path_is_taken_over_only_when_its_relay_is_gone(make_relay, frozen):
    first, second = make_relay().start(), make_relay()
    second.path, second.environment["PGHERALD_SOCKET"] = first.path, first.path
    if frozen:
        first.freeze()  # it answers nothing, but it lives
        assert second.launch().wait_exit() > 0
        assert first.path in second.lines("ERROR")[0]
        first.thaw()
        first.worker().publish("alice")
    first.kill()
    assert os.path.exists(first.path), "kill -9 leaves the path behind"
    worker = second.start().worker()
    worker.publish("alice")
    worker.hears("alice")


def test_a_file_that_is_no_socket_is_not_removed(make_relay):
    relay = make_relay()
    with open(relay.path, "w") as file:
        file.write("precious")
    assert relay.launch().wait_exit() > 0
    line, = relay.lines("ERROR")
    assert relay.path in line
    with open(relay.path) as file:
        assert file.read() == "precious"


def test_a_relay_serves_only_when_it_can_hear(make_relay, own_pg, own_db, own_bouncer):
    """There is no socket before the first canary came back, so a worker that connects can
    rely on it."""
    own_pg.freeze()
    relay = make_relay(DATABASE_URL=own_bouncer.url(own_db), DATABASE_DIRECT_URL=own_db.direct_url).launch()
    assert relay.process.poll() is None and not os.path.exists(relay.path)
    own_pg.thaw()
    relay.await_ready()
    relay.worker().publish("alice")


def test_a_start_can_be_interrupted(start, db, bouncer, dead_end):
    relay = start(bouncer.url(db), f"postgresql://app@127.0.0.1:{dead_end(True)}/{db.name}")
    relay.terminate(signal.SIGTERM)
    relay.wait_exit(5)
    assert not os.path.exists(relay.path)


def test_the_environment_does_not_reach_another_database(make_relay, db, bouncer):
    """A stray PGDATABASE or PGSERVICE of the shell must not redirect the URLs."""
    relay = make_relay(DATABASE_URL=bouncer.url(db), DATABASE_DIRECT_URL=db.direct_url, PGDATABASE="elsewhere",
                       PGPORT="1", PGHOST="nowhere.invalid").start()
    worker = relay.worker()
    db.notify(CHANNEL, '{"p":"alice"}')
    worker.hears("alice")


def checked(make_relay, *flags, **environment):
    """The rows of the table that pgherald --check prints, by what they are about, and the status."""
    relay = make_relay(flags=["--check", *flags], **environment).launch()
    status = relay.wait_exit(30)
    rows = {line[:24].strip(): (line[24:33].strip(), line[33:]) for line in relay.stdout().splitlines() if line[:1].strip()}
    return status, rows, relay


def test_the_check_tells_what_works_and_what_would_mend_the_rest(make_relay, run, db, bouncer):
    data = DataSync(run, db)
    status, rows, relay = checked(make_relay, DATABASE_URL=bouncer.url(db), DATABASE_DIRECT_URL=db.direct_url)
    assert status == 0 and not os.path.exists(relay.path), "nothing is served"
    assert rows["DATABASE_DIRECT_URL"][0] == rows["DATABASE_URL"][0] == "works" and "as app" in rows["DATABASE_DIRECT_URL"][1]
    assert rows["recovery"][0] == "missing" and "pgherald.sql" in rows["recovery"][1]
    data.migrate("pgherald")
    db.sql("CREATE TABLE docs (owner text); SELECT pgherald.track('docs', 'docs', 'owner')")
    db.sql("CREATE ROLE lesser LOGIN", user="postgres")
    function = "pg_catalog.pg_control_system()"
    db.sql(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", user="postgres")
    try:
        url = db.server.url(db.name, user="lesser")
        status, rows, relay = checked(make_relay, DATABASE_DIRECT_URL=url, PGHERALD_CHANNELS="docs")
        assert status == 0 and rows["recovery"][0] == "fails"
        table = relay.stdout()
        for grant in ("EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot)", "SELECT ON pgherald.relay_key", f"EXECUTE ON FUNCTION {function}"):
            assert f"GRANT {grant} TO lesser" in table, table
            db.sql(f"GRANT {grant} TO lesser", user="postgres")
        status, rows, relay = checked(make_relay, DATABASE_DIRECT_URL=url, PGHERALD_CHANNELS="docs")
        assert status == 0 and {state for state, _ in rows.values()} == {"works", "postgres"}, relay.stdout()
    finally:
        db.sql("DROP OWNED BY lesser; DROP ROLE lesser", user="postgres")


def test_a_check_of_settings_that_cannot_work(make_relay, db):
    status, rows, relay = checked(make_relay, DATABASE_DIRECT_URL=db.direct_url.replace(db.name, "no_such_database"))
    assert status == 1 and "no_such_database" in relay.log()
    assert rows["DATABASE_DIRECT_URL"][0] == "fails" and "no_such_database" in rows["DATABASE_DIRECT_URL"][1]


def test_a_check_where_nothing_can_be_published(make_relay, db):
    """The table says which of the two URLs fails."""
    nobody = db.direct_url.replace(f":{db.server.port}/", ":1/")
    status, rows, relay = checked(make_relay, DATABASE_DIRECT_URL=db.direct_url, DATABASE_URL=nobody)
    assert status == 1 and rows["DATABASE_URL"][0] == "fails" and "start" not in rows, relay.log()
    assert rows["DATABASE_DIRECT_URL"][0] in ("works", "untried")
    assert "@" not in relay.stdout()


def test_a_check_in_local_mode(make_relay):
    status, rows, _ = checked(make_relay)
    assert status == 0 and rows["mode"][0] == "local"
