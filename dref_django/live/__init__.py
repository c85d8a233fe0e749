"""Refs on web pages: a websocket protocol, its fan-out, and who may watch what.

    hub -> fanout (one JSON text and one splice a change, made once a process) -> outbox (one a socket, conflating)
        -> DRefConsumer -> dref.js -> <dref-value>

The files, in reading order: `wire` (the messages), `view` (a value as JSON), `frames`, `fanout` and `outbox` (the way
out), `policy` and `origin` (who may), `writes` and `rooms` (what a page changes), `connection` (one client, whatever
carries it), `sessions`, `consumers` and `routing` (Channels), `sse` (without Channels), `mixin` (for consumers of
others), `counting` (how many there are); `render` is for the server-rendered page. Only the Channels part needs the
extra `channels`. docs/live.md describes the protocol.
"""
