"""TLS on the way to PostgreSQL: certificates, a server that demands them, and stunnel."""

import os
import shutil
import socket

from harness.procs import give_away, wait_until
from harness.servers import PASSWORD, free_port

# The name in the server's certificate. Where it is must not depend on how the machine resolves it.
HOST = "db.example"


class Authority:
    """Signs certificates, with openssl as an operator does it."""

    def __init__(self, run, name="authority"):
        self._run = run
        self.directory = run.subdirectory("tls")
        give_away(self.directory)
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                      "-keyout", self.path("ca.key"), "-out", self.path("ca.crt"))

    def _openssl(self, *arguments):
        self._run.call(["openssl", *arguments])

    def path(self, name):
        return os.path.join(self.directory, name)

    @property
    def root(self):
        return self.path("ca.crt")

    def sign(self, name):
        """A certificate for this name and its key. Returns their paths."""
        certificate, key, request, names = (self.path(name + end) for end in (".crt", ".key", ".csr", ".names"))
        with open(names, "w") as file:
            file.write(f"subjectAltName = DNS:{name}\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        self._openssl("x509", "-req", "-days", "2", "-in", request, "-CA", self.root, "-CAkey", self.path("ca.key"),
                      "-CAcreateserial", "-extfile", names, "-out", certificate)
        os.chmod(key, 0o600)  # libpq and PostgreSQL refuse a key that others can read
        return certificate, key


def serve(server, authority, rules, name=HOST):
    """From now on the server speaks TLS, and lets in by these lines of pg_hba.conf."""
    certificate, key = authority.sign(name)
    settings = {"ssl_ca_file": authority.root, "ssl_cert_file": certificate, "ssl_key_file": key}
    for setting, path in settings.items():
        copy = os.path.join(server.directory, os.path.basename(path))
        shutil.copyfile(path, copy)
        os.chmod(copy, 0o600)
        give_away(copy)
        server.sql(f"ALTER SYSTEM SET {setting} = '{copy}'")
    server.sql("ALTER SYSTEM SET ssl = on")
    with open(os.path.join(server.data, "pg_hba.conf"), "w") as file:
        file.write("local all all trust\n" + rules)
    server.sql("SELECT pg_reload_conf()")
    wait_until(lambda: speaks_tls(server.port), "PostgreSQL speaks TLS")


def speaks_tls(port):
    """What it answers to an SSLRequest (see the protocol of PostgreSQL)."""
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        s.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        return s.recv(1) == b"S"


def url(port, database, sslmode="verify-full", host=HOST, user="app", password=PASSWORD, **options):
    """An option with None is left out."""
    options = {"sslmode": sslmode, "hostaddr": "127.0.0.1", **options}
    text = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"postgresql://{user}:{password}@{host}:{port}/{database.name}?{text}"


class Stunnel:
    """A TLS proxy in front of a server that speaks plain TCP. Its records have up to 16 KiB,
    PostgreSQL's own 8."""

    def __init__(self, run, server, authority):
        self.run = run
        self.port = free_port()
        self.directory = run.subdirectory("stunnel")
        certificate, key = authority.sign(HOST)
        with open(os.path.join(self.directory, "conf"), "w") as file:
            file.write(f"""
foreground = yes
pid =
[postgres]
accept = 127.0.0.1:{self.port}
connect = 127.0.0.1:{server.port}
protocol = pgsql
cert = {certificate}
key = {key}
""")
        self.process = None

    def start(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = self.run.spawn(["stunnel4", os.path.join(self.directory, "conf")], stdout=log, stderr=log)

        def accepts():
            assert self.process.poll() is None, "stunnel did not start: " + self.log()
            try:
                return speaks_tls(self.port)
            except OSError:
                return False
        wait_until(accepts, "stunnel speaks TLS")
        return self

    def log(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()

    def close(self):
        self.process.kill()
        self.process.wait()
