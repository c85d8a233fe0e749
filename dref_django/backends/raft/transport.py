"""Connections between nodes, and from clients to nodes: TCP or a Unix socket, authenticated before anything else.

    frames.py -> handshake.py -> channel.py -> acceptor.py   the end that listens
                                               dialing.py    the end that connects
                                               links.py      connections kept to the other nodes

`frames` and `handshake` are pure; the others live on one event loop.
"""

from __future__ import annotations

from .acceptor import Acceptor
from .channel import Channel
from .dialing import dial
from .frames import TransportError
from .handshake import Hello, Secrets
from .links import Back, Links

__all__ = ["Acceptor", "Back", "Channel", "Hello", "Links", "Secrets", "TransportError", "dial"]
