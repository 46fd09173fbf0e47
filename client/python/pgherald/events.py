"""What a client tells its app."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

__all__ = ["CONNECTED", "DISCONNECTED", "UPSTREAM_DOWN", "UPSTREAM_LIVE", "Change", "Event", "Gap", "Message", "State"]


class Change(NamedTuple):
    """A notification of a change channel: the data of one user changed."""

    channel: str
    pubkey: str
    """Whose data changed."""
    client_id: Optional[str]
    """Who made the change, so that an app can recognise its own echo. None if the publisher gave
    none."""
    seq: int
    """The place in the relay's order; 0 if the change was recovered for this client alone."""
    recovered: bool
    """The relay found the change in the database and did not hear it live. client_id is then None."""


class Message(NamedTuple):
    """A notification of a text channel, as it was published."""

    channel: str
    payload: Union[str, bytes]
    """bytes only if it is not UTF-8, from a database whose encoding does not guarantee it
    (SQL_ASCII)."""
    seq: int
    """As in Change."""
    recovered: bool
    """The recovery function returned it."""


class Gap(NamedTuple):
    """Changes may have been lost before this moment. The app reads again what it needs, as it does
    at start."""

    cause: str
    """`overrun`: this process read more slowly than the relay could keep what it missed.
    `restart`: the cursor is from a relay run that is gone, and the database could not tell what was
    missed. `upstream`: the relay had lost PostgreSQL, and could not recover what was missed.
    `recovery`: the database gave a wrong answer when the relay asked what was missed. `refused`: a
    subscription was refused, or is live again after that (see `Client.subscribe()`). Later versions
    may add causes."""
    text: str
    """For people."""
    seq: int
    """The place in the relay's order; 0 if it has none."""


CONNECTED = "connected"
DISCONNECTED = "disconnected"
UPSTREAM_LIVE = "upstream-live"
UPSTREAM_DOWN = "upstream-down"


class State(NamedTuple):
    """A connection was made or lost, or the relay's connection to PostgreSQL was."""

    event: str
    """CONNECTED: `text` is the mode, "postgres", "local", or "in-process" for the local notifier.
    DISCONNECTED: `text` says why; the client connects again by itself. UPSTREAM_LIVE: the relay
    hears PostgreSQL. UPSTREAM_DOWN: it does not; changes come late, and `notify()` may time out.

    The first connection that fails is told, too. Repeated failures are told only when the reason
    changes. After each connect, the state of the upstream is told, and then each change of it."""
    text: str
    """For people."""


Event = Union[Change, Message, Gap, State]
