"""A primary and its asynchronous standby, with a connection between them that can be cut."""

import os
import signal
import subprocess

from harness.procs import wait_until
from harness.servers import PASSWORD, Postgres, free_port


class Forward:
    """A socat on a port of its own, whose target can be changed or removed."""

    def __init__(self, run, target):
        self.run = run
        self.port = free_port()
        self.process = None
        self.lead_to(target)

    def lead_to(self, target):
        self.close()
        self._start(target)

    def lead_newcomers_to(self, target):
        """New connections go to this target. Existing ones stay where they are."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._start(target)

    def _start(self, target):
        self.process = self.run.spawn(
            ["socat", f"TCP-LISTEN:{self.port},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{target}"],
            stderr=subprocess.DEVNULL)

    def freeze(self):
        """Everything that is sent is lost on the way, without an error."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def close(self):
        """Let nothing through any more, and cut existing connections."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Pair:
    """The primary, and a standby that streams from it through a Forward."""

    def __init__(self, run, primary, port=None):
        """port: the standby's; a free one by default."""
        self.run = run
        self.primary = primary
        self.way = Forward(run, primary.port)
        with open(os.path.join(primary.data, "pg_hba.conf"), "a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
        # a checkpoint after a crash would remove WAL that the standby must still receive
        primary.sql("ALTER SYSTEM SET wal_keep_size = '128MB'")
        primary.sql("SELECT pg_reload_conf()")
        self.standby = Postgres(run, None, port)
        self._follow()

    def _follow(self):
        """Start the standby as a copy of the primary."""
        self.primary.copy(self.standby, self.way.port)
        self.standby.start()
        self.in_step()

    def in_step(self):
        """Wait until the standby has everything that is committed by now."""
        self.primary.sql("CREATE TABLE IF NOT EXISTS in_step (n int); INSERT INTO in_step VALUES (1)")  # so that it is flushed
        lsn = self.primary.sql("SELECT pg_current_wal_flush_lsn()")[0][0]
        wait_until(lambda: self.standby.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))[0][0],
                   "the standby is in step")

    def cut(self):
        """From here on the standby receives nothing."""
        self.way.close()
        wait_until(lambda: not self.standby.sql("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"),
                   "the end of streaming")

    def fail_over(self):
        """The primary dies, and the standby takes its place. Returns the new primary."""
        self.primary.stop("immediate")
        self.standby.sql("SELECT pg_promote()")
        wait_until(lambda: not self.standby.sql("SELECT pg_is_in_recovery()")[0][0], "the promotion")
        return self.standby

    def renew(self):
        """After a failover: a new standby, at the address of the one that died, follows the
        new primary."""
        gone, self.primary = self.primary, self.standby
        gone.close()
        self.way.lead_to(self.primary.port)
        self.standby = Postgres(self.run, None, gone.port)
        self._follow()

    def url(self, database, user="app", password=PASSWORD):
        """Both hosts; libpq takes the one that accepts writes."""
        return (f"postgresql://{user}:{password}@127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}/{database}"
                "?target_session_attrs=read-write")

    def close(self):
        self.way.close()
        self.standby.close()
        self.primary.close()


def lead(bouncer, server):
    """From now on this pgbouncer pools another server."""
    path = os.path.join(bouncer.directory, "ini")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace(f"port={bouncer.server.port}\n", f"port={server.port}\n"))
    bouncer.server = server
    bouncer.restart()
