"""The LISTEN connection and recovery, with a server that answers with other rows than the
relay asked for. See test_lying_server."""

import pytest

from lying import LIES, is_live, survives

# A piece of each statement that returns a row.
UPSTREAM = ["*/ SELECT pg_catalog.concat(", "SELECT pg_catalog.pg_is_in_recovery", "*/ SELECT pg_catalog.pg_backend_pid()", "FROM pgherald.relay_key", "'idle_session_timeout'"]
RECOVERY = ["BEGIN ISOLATION LEVEL", "FROM pgherald.changes_since"]


def deafen(host, data):
    """End the LISTEN connection if there is one."""
    if is_live(host):
        data.database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                          " AND application_name = 'pgherald upstream'", user="postgres")


@pytest.mark.parametrize("how", LIES)
def test_the_statements_of_the_listen_connection(deceived, liar, recoverable, how):
    host = deceived(PGHERALD_CHECKPOINT_INTERVAL="0.2").start()
    for fragment in UPSTREAM:
        survives(host, liar, recoverable, fragment, how, lambda: deafen(host, recoverable))


@pytest.mark.parametrize("how", LIES)
def test_the_statements_of_recovery(deceived, liar, recoverable, how):
    host = deceived(PGHERALD_CHECKPOINT_INTERVAL="0.2").start()

    def provoke():
        recoverable.write("missed")
        deafen(host, recoverable)
    # Of the last one, many rows are correct, and each is sent to a worker.
    for fragment in RECOVERY[:1] if how == "endless" else RECOVERY:
        survives(host, liar, recoverable, fragment, how, provoke)
