"""The end of a value's life reaches watchers in other processes, with or without hints."""

from __future__ import annotations

from tests.faults.driver import Worker
from tests.faults.labs import HEARTBEAT, Lab, ServerLab

TTL = 0.6


def watch(watcher: Worker) -> int:
    """Starts both kinds of stream; returns the place after their snapshots."""
    for every in (False, True):
        watcher.ask("watch", name="mortal", every=every)
        watcher.wait_for_event("change", "the snapshot", name="mortal", deleted=True, every=every)
    return watcher.mark()


def test_expiry_reaches_watchers_of_another_process(lab: Lab) -> None:
    writer, watcher = lab.worker(), lab.worker(heartbeat=60)
    mark = watch(watcher)
    watcher.ask("on_change", name="mortal")
    writer.call("mortal", "set", 5, ttl=TTL)
    watcher.wait_for_event("change", "the value", after=mark, name="mortal", value=5, every=True)
    for every in (False, True):
        watcher.wait_for_event(
            "change", "the end", after=mark, name="mortal", value=0, deleted=True, gap=False, every=every
        )
    watcher.wait_for_event("called", "the callback", name="mortal", value=0)
    assert writer.call("mortal", "get") == 0


def test_expiry_is_told_even_when_the_hint_of_the_set_was_lost(server_lab: ServerLab) -> None:
    writer, watcher = server_lab.worker(), server_lab.worker(proxied=True, heartbeat=HEARTBEAT)
    mark = watch(watcher)
    assert server_lab.proxy.isolate(server_lab.listening) >= 1  # from here on this connection hears nothing
    writer.call("mortal", "set", 5, ttl=4 * HEARTBEAT + 2)
    for every in (False, True):
        watcher.wait_for_event("change", "the value, by comparison", after=mark, name="mortal", value=5, every=every)
        watcher.wait_for_event("change", "the end", after=mark, name="mortal", value=0, deleted=True, every=every)


def test_a_shorter_life_set_behind_the_listeners_back_is_told(server_lab: ServerLab) -> None:
    """The hint of `expire` is lost; the deadline that the watcher knows is far away."""
    writer, watcher = server_lab.worker(), server_lab.worker(proxied=True, heartbeat=HEARTBEAT)
    mark = watch(watcher)
    writer.call("mortal", "set", 5, ttl=3600)
    watcher.wait_for_event("change", "the value", after=mark, name="mortal", value=5, every=True)
    assert server_lab.proxy.isolate(server_lab.listening) >= 1
    assert writer.call("mortal", "expire", 0.2) is True
    for every in (False, True):
        watcher.wait_for_event("change", "the end", after=mark, name="mortal", value=0, deleted=True, every=every)
