"""`dref_changed`: the signal that is sent after a ref has changed, in any process.

    @receiver(dref_changed, sender=maintenance)
    def switched(sender, name, change, **kwargs): ...

Sent on the process's callback thread, robustly: a receiver that raises is logged and the others are called. Connecting
with a ref as sender watches that ref; without a sender it watches every ref of every back end, which costs a copy of
all of them in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.dispatch import Signal

from . import conf
from .refs import DRef, ref_for
from .streams import Change, Subscription

_EVERYTHING = 0


class ChangeSignal(Signal):
    """A signal that listens to what its receivers ask for, and no longer."""

    def __init__(self) -> None:
        super().__init__()
        self._subscriptions: dict[int, list[Subscription[Any]]] = {}
        self._senders: dict[tuple[str, str], DRef[Any]] = {}
        """One object a name: two refs of one name are one sender, and equal."""

    def connect(
        self,
        receiver: Callable[..., Any],
        sender: object | None = None,
        weak: bool = True,
        dispatch_uid: Any = None,
    ) -> None:
        sender = self._canonical(sender)
        super().connect(receiver, sender, weak, dispatch_uid)
        key = _EVERYTHING if sender is None else id(sender)
        if key in self._subscriptions:
            return
        if sender is None:
            self._subscriptions[key] = [self._watch_all(alias) for alias in conf.aliases()]
        elif isinstance(sender, DRef):
            self._subscriptions[key] = [sender.on_change(lambda change: self._announce(sender, change))]

    def disconnect(
        self, receiver: Callable[..., Any] | None = None, sender: object | None = None, dispatch_uid: Any = None
    ) -> bool:
        sender = self._canonical(sender)
        done = super().disconnect(receiver, sender, dispatch_uid)
        key = _EVERYTHING if sender is None else id(sender)
        wanted = {lookup[1] for lookup, *_ in self.receivers}
        if key in self._subscriptions and (id(sender) if sender is not None else id(None)) not in wanted:
            for subscription in self._subscriptions.pop(key):
                subscription.close()
        return bool(done)

    def _canonical(self, sender: object) -> object:
        return self._senders.setdefault((sender.using, sender.name), sender) if isinstance(sender, DRef) else sender

    def _watch_all(self, alias: str) -> Subscription[Any]:
        def announce(change: Change[Any]) -> None:
            ref = self._senders.get((alias, change.name))
            if ref is None:
                self._announce(ref_for(change.name, alias), change)
            elif id(ref) not in self._subscriptions:
                self._announce(ref, change)

        def decode(name: str, data: Any) -> Any:
            return ref_for(name, alias)._decode(name, data)

        return Subscription(alias, decode, announce, name=None, prefix="")

    def _announce(self, sender: DRef[Any], change: Change[Any]) -> None:
        self.send_robust(sender=sender, name=change.name, change=change)


dref_changed = ChangeSignal()
