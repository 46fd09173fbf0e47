"""What a client is subscribed to, how many holders each subscription has, and what the relay knows of
it. Each (channel, pubkey or all) exists once. Requests to the relay are batched, many pubkeys a frame.
`core` sends the frames and passes on the answers."""

from __future__ import annotations

import errno
from typing import Any, Dict, List, NamedTuple, Optional

from .errors import Error, error
from .frames import SUBSCRIBE, UNSUBSCRIBE
from .requests import Request

__all__ = ["Answer", "Subscriptions"]

# Most pubkeys, and bytes of pubkeys, in one frame, so that it stays below the size of a frame.
BATCH_PUBKEYS = 512
BATCH_BYTES = 32768

# How far a subscription is with the relay.
DUE = "due"  # the relay must be asked
ASKED = "asked"  # SUBSCRIBE was sent
LIVE = "live"  # and answered by OK
REFUSED = "refused"  # or by ERROR; due again on the next connection
LEAVING = "leaving"  # it has no holder, and the relay must be told


class _Subscription:
    __slots__ = ("at_relay", "channel", "holders", "id", "pubkey", "seq", "stage", "waiters", "was_refused")

    def __init__(self, channel: "_Channel", pubkey: Optional[str]) -> None:
        self.channel, self.pubkey = channel, pubkey
        self.stage = ""
        self.at_relay = False  # SUBSCRIBE was sent on this connection, and nothing has undone it
        self.was_refused = False  # so there is a gap to tell when it becomes live
        self.holders = 0  # 0 exactly if LEAVING
        self.id = 0  # of the SUBSCRIBE, while ASKED
        self.seq = 0  # since when it is LIVE
        self.waiters: List[Request] = []

    def move(self, stage: str) -> None:
        if self.stage in (DUE, LEAVING):
            del self.channel.listed[self.stage][self.pubkey]
        self.stage = stage
        if stage in (DUE, LEAVING):
            self.channel.listed[stage][self.pubkey] = self

    def end(self) -> None:
        self.move("")
        del self.channel.all[self.pubkey]

    def take_waiters(self) -> List[Request]:
        waiters, self.waiters = self.waiters, []
        return waiters


class _Channel:
    """By pubkey: all of its subscriptions, and those that are due or leaving, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.all: Dict[Optional[str], _Subscription] = {}
        self.listed: Dict[str, Dict[Optional[str], _Subscription]] = {DUE: {}, LEAVING: {}}


class Answer(NamedTuple):
    """What the answer to a SUBSCRIBE means."""

    told: List[Request]  # they have their outcome now
    renewed: bool  # a subscription is live that was refused before
    untold: bool  # a subscription is refused whose holders did not all ask for the outcome


class Subscriptions:
    def __init__(self) -> None:
        self._channels: Dict[str, _Channel] = {}
        self._asked: Dict[int, List[_Subscription]] = {}  # by the id of the SUBSCRIBE

    def add(self, channel_name: str, pubkey: Optional[str], waiter: Request) -> bool:
        """Add a holder. Returns whether it is live already: then the waiter has its outcome."""
        channel = self._channels.setdefault(channel_name, _Channel(channel_name))
        sub = channel.all.get(pubkey)
        if sub is None:
            sub = channel.all[pubkey] = _Subscription(channel, pubkey)
            sub.move(DUE)
        sub.holders += 1
        # One that was leaving may still be live at the relay. To ask again is harmless, and the OK gives
        # the seq.
        if sub.stage in (LEAVING, REFUSED):
            sub.move(DUE)
        if sub.stage == LIVE:
            waiter.succeed(sub.seq)
            return True
        sub.waiters.append(waiter)
        return False

    def remove(self, channel_name: str, pubkey: Optional[str]) -> List[Request]:
        """Remove a holder. Returns those that waited, after the last one. Raises NotSubscribedError."""
        channel = self._channels.get(channel_name)
        sub = channel.all.get(pubkey) if channel else None
        if channel is None or sub is None or sub.holders == 0:
            raise error(errno.ENOENT)
        sub.holders -= 1
        if sub.holders > 0:
            return []
        waiters = sub.take_waiters()
        for waiter in waiters:
            waiter.fail(error(errno.ECANCELED))
        if sub.at_relay:
            sub.move(LEAVING)
        else:
            sub.end()
            self._drop_if_empty(channel)
        return waiters

    def _drop_if_empty(self, channel: _Channel) -> None:
        if not channel.all:
            del self._channels[channel.name]

    def next_request(self, id: int) -> Optional[List[Any]]:
        """The next SUBSCRIBE or UNSUBSCRIBE that is due, as a frame."""
        for channel in list(self._channels.values()):
            # Leaving first: if the relay's limit of subscriptions is near, that makes room.
            for stage in (LEAVING, DUE):
                if channel.listed[stage]:
                    return self._request(channel, stage, id)
        return None

    def _request(self, channel: _Channel, stage: str, id: int) -> List[Any]:
        batch: List[_Subscription] = []
        size = 0
        for pubkey, sub in channel.listed[stage].items():
            # The subscription for all has a frame of its own.
            if batch and (pubkey is None or len(batch) == BATCH_PUBKEYS or size >= BATCH_BYTES):
                break
            batch.append(sub)
            if pubkey is None:
                break
            size += len(pubkey.encode())
        for sub in batch:
            if stage == DUE:
                sub.id, sub.at_relay = id, True
                sub.move(ASKED)
            else:
                sub.end()
        if stage == DUE:
            self._asked[id] = batch
        self._drop_if_empty(channel)
        pubkeys = None if batch[0].pubkey is None else [sub.pubkey for sub in batch]
        return [SUBSCRIBE if stage == DUE else UNSUBSCRIBE, id, channel.name, pubkeys]

    def _take_asked(self, id: int) -> Optional[List[_Subscription]]:
        """Those that still wait for this answer. None if there was no such request."""
        asked = self._asked.pop(id, None)
        return None if asked is None else [sub for sub in asked if sub.stage == ASKED and sub.id == id]

    def live(self, id: int, seq: int) -> Optional[Answer]:
        """OK came to the SUBSCRIBE with this id, if there is one."""
        subs = self._take_asked(id)
        if subs is None:
            return None
        told: List[Request] = []
        renewed = False
        for sub in subs:
            renewed = renewed or sub.was_refused
            sub.was_refused = False
            told += self._become_live(sub, seq)
        return Answer(told, renewed, False)

    def _become_live(self, sub: _Subscription, seq: int) -> List[Request]:
        sub.seq = seq
        sub.move(LIVE)
        waiters = sub.take_waiters()
        for waiter in waiters:
            waiter.succeed(seq)
        return waiters

    def refused(self, id: int, why: Error) -> Optional[Answer]:
        """ERROR came to the SUBSCRIBE with this id, if there is one."""
        subs = self._take_asked(id)
        if subs is None:
            return None
        told: List[Request] = []
        untold = False
        for sub in subs:
            sub.was_refused, sub.at_relay = True, False
            sub.move(REFUSED)
            waiters = sub.take_waiters()
            untold = untold or sum(waiter.asked for waiter in waiters) < sub.holders
            for waiter in waiters:
                waiter.fail(why)
            told += waiters
        return Answer(told, False, untold)

    def restart(self) -> None:
        """The connection is lost: every subscription with a holder is due again."""
        self._asked.clear()
        for channel in list(self._channels.values()):
            for sub in list(channel.all.values()):
                if sub.holders == 0:
                    sub.end()
                else:
                    sub.at_relay = False
                    sub.move(DUE)
            self._drop_if_empty(channel)

    def all_live(self, seq: int) -> List[Request]:
        """For the local notifier: everything that is due becomes live, or ends."""
        told: List[Request] = []
        for channel in list(self._channels.values()):
            for sub in list(channel.all.values()):
                if sub.stage == DUE:
                    told += self._become_live(sub, seq)
                elif sub.stage == LEAVING:
                    sub.end()
            self._drop_if_empty(channel)
        return told

    def match(self, channel_name: str, pubkey: Optional[str]) -> bool:
        """For the local notifier: whether a live subscription matches."""
        channel = self._channels.get(channel_name)
        if channel is None:
            return False
        return any(sub is not None and sub.stage == LIVE for sub in (channel.all.get(None), channel.all.get(pubkey)))

    def cancel(self) -> List[Request]:
        """The client is closed. Returns all that still waited."""
        waiters = [w for channel in self._channels.values() for sub in channel.all.values() for w in sub.take_waiters()]
        for waiter in waiters:
            waiter.fail(error(errno.ECANCELED))
        return waiters
