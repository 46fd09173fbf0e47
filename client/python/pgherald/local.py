"""The local notifier: a core that needs no relay. It delivers what its client publishes, on any channel,
to that client alone."""

from __future__ import annotations

from typing import Any, List, Optional

from . import frames as wire
from .core import NEVER, Core
from .events import CONNECTED, UPSTREAM_LIVE, Change, Event, Message, State
from .requests import Request

__all__ = ["LocalCore"]


class LocalCore(Core):
    """It is never connected. tick() delivers what was published before."""

    def __init__(self, name: Optional[str], queue_size: int, deadline: float) -> None:
        super().__init__(name=name, queue_size=queue_size, deadline=deadline)
        self._seq = 0
        self._events.extend([State(CONNECTED, "in-process"), State(UPSTREAM_LIVE, "")])

    def subscribe(self, channel: str, pubkey: Optional[str], request: Request) -> None:
        super().subscribe(channel, pubkey, request)
        live = self._subscriptions.all_live(self._seq)
        self._pending -= len(live)
        self._events.extend(live)

    def unsubscribe(self, channel: str, pubkey: Optional[str]) -> None:
        super().unsubscribe(channel, pubkey)
        self._subscriptions.all_live(self._seq)

    def cursor(self) -> Optional[str]:
        return None

    def may_connect(self) -> bool:
        return False

    def next_time(self) -> float:
        return 0.0 if self._queued else NEVER

    def tick(self) -> None:
        while self._queued:
            publish = self._queued.popleft()
            self._publish_bytes -= publish.cost
            self._seq += 1
            publish.request.succeed(self._seq)
            self._tell([publish.request])
            self._events.extend(self._delivered(publish.frame))

    def _delivered(self, frame: List[Any]) -> List[Event]:
        if frame[0] == wire.NOTIFY:
            _, _, channel, pubkey, client_id = frame
            return [Change(channel, pubkey, client_id, self._seq, False)] if self._subscriptions.match(channel, pubkey) else []
        _, _, channel, payload = frame
        return [Message(channel, payload, self._seq, False)] if self._subscriptions.match(channel, None) else []
