"""`OPTIONS` of the Raft back end: where this node lives, where the others are, and what they all know.

With none at all the back end is a cluster of one host: nothing listens on the network, the data lies in `dref-data`
beside the project. What is not in OPTIONS may come from the environment: DREF_NODE_ADDRESSES, DREF_NODE_SERVICES (lists
with commas), DREF_PORT, DREF_DATA_DIR.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Params

from .handshake import MAX_SECRETS, Secrets
from .resolving import join_address, split_address

DEFAULT_PORT: Final = 8082
DEFAULT_CLUSTER: Final = "dref"
DEFAULT_VOTERS: Final = 5
DEFAULT_EXPECT: Final = 3
"""Nodes that found the cluster when they are found by name (SERVICES)."""
DEFAULT_DIRECTORY: Final = "dref-data"
SHORTEST_SECRET: Final = 16
MAX_CLUSTER_NAME: Final = 100
MAX_VOTERS: Final = 9
MAX_FOUNDERS: Final = 99
KNOWN: Final = (
    "NODES", "SERVICES", "PORT", "BIND", "ADVERTISE", "DATA_DIR", "BOOTSTRAP_EXPECT", "CLUSTER", "SECRET", "TLS",
    "VOTERS", "ROLE",
)  # fmt: skip
ENVIRONMENT: Final = {
    "NODES": "DREF_NODE_ADDRESSES",
    "SERVICES": "DREF_NODE_SERVICES",
    "PORT": "DREF_PORT",
    "DATA_DIR": "DREF_DATA_DIR",
}
TLS_KEYS: Final = ("CERTIFICATE", "KEY", "CA")


class Role(Enum):
    AUTO = "auto"
    """Has the log; votes while there are fewer than VOTERS."""
    VOTER = "voter"
    """Has the log, and votes: before AUTO ones, and in place of one when VOTERS vote already."""
    CLIENT = "client"
    """Has no log and no data: asks the members over the network."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. Both ends show a certificate of the CA; host names are not compared, nodes are found by address."""

    certificate: Path
    key: Path
    ca: Path

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """For accepting (CLIENT_AUTH) or for dialling (SERVER_AUTH). Raises OSError, also for files that do not fit."""
        context = ssl.create_default_context(purpose, cafile=str(self.ca))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context


NO_SECRET: Final = Secrets((), "")


@dataclass(frozen=True, slots=True)
class Options:
    data_dir: Path
    cluster: str = DEFAULT_CLUSTER
    secrets: Secrets = field(default=NO_SECRET, repr=False)
    nodes: tuple[str, ...] = ()
    """"host:port" of every node, or of some of them; the host is a name or an address."""
    services: tuple[str, ...] = ()
    """"host:port", where each address of the host is a node."""
    port: int = DEFAULT_PORT
    bind: str = "127.0.0.1"
    advertise: str = ""
    """"host:port" at which others reach this node; "": as it sees itself (see `discovery.own_address`)."""
    bootstrap_expect: int = 1
    voters: int = DEFAULT_VOTERS
    role: Role = Role.AUTO
    tls: Tls | None = None

    @property
    def listen_tls(self) -> ssl.SSLContext | None:
        """A new context for accepting connections. Raises OSError when the files do not fit."""
        return None if self.tls is None else self.tls.context(ssl.Purpose.CLIENT_AUTH)

    @property
    def dial_tls(self) -> ssl.SSLContext | None:
        """A new context for making connections. Raises OSError when the files do not fit."""
        return None if self.tls is None else self.tls.context(ssl.Purpose.SERVER_AUTH)

    @property
    def is_alone(self) -> bool:
        """A cluster of this one host: nothing to listen for, nobody to look for."""
        return not self.nodes and not self.services

    @property
    def insists(self) -> bool:
        """This node is to vote, whoever else would."""
        return self.role is Role.VOTER

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for options that share a node (or, of clients, their connections)."""
        if self.role is Role.CLIENT:
            return (self.cluster, self.nodes, self.services)
        return (self.data_dir,)


def read_options(params: Params, environment: Mapping[str, str] | None = None) -> Options:
    """Raises ImproperlyConfigured with a sentence that says what to change."""
    where = f"DREF_BACKENDS[{params.alias!r}]['OPTIONS']"
    if unknown := sorted(set(params.options) - set(KNOWN)):
        raise ImproperlyConfigured(f"{where} has no option {unknown[0]!r} on raft; there are {', '.join(KNOWN)}.")
    return _Reader(where, params.options, os.environ if environment is None else environment).options()


class _Reader:
    def __init__(self, where: str, given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._where = where
        self._given = dict(given)
        self._names = {name: f"{where}[{name!r}]" for name in KNOWN}
        for name, variable in ENVIRONMENT.items():
            if name not in given and (text := environment.get(variable, "").strip()):
                self._given[name] = text
                self._names[name] = f"the environment's {variable}"

    def options(self) -> Options:
        port = self._number("PORT", DEFAULT_PORT, 1, 65535)
        nodes, services = self._addresses("NODES", port), self._addresses("SERVICES", port)
        near = not services and all(is_loopback(node) for node in nodes)
        cluster = self._text("CLUSTER", DEFAULT_CLUSTER, MAX_CLUSTER_NAME)
        secrets = self._secrets()
        voters = self._number("VOTERS", DEFAULT_VOTERS, 1, MAX_VOTERS)
        expect = _founders(len(nodes), voters) if nodes else DEFAULT_EXPECT if services else 1
        options = Options(
            data_dir=self._data_dir(),
            cluster=cluster,
            secrets=Secrets(secrets, cluster),
            nodes=nodes,
            services=services,
            port=port,
            bind=self._text("BIND", "127.0.0.1" if near else "0.0.0.0"),  # noqa: S104 -- authenticated, and refused without a secret
            advertise=self._advertise(port),
            bootstrap_expect=self._number("BOOTSTRAP_EXPECT", expect, 1, MAX_FOUNDERS),
            voters=voters,
            role=self._role(),
            tls=self._tls(),
        )
        if not secrets and not (near and is_loopback(options.bind)):
            raise self._wrong(
                "SECRET",
                "is missing, and so is SECRET_KEY: nodes that are reached over a network need a secret that all of "
                "them know",
            )
        self._check_together(options)
        return options

    def _check_together(self, options: Options) -> None:
        if options.role is Role.CLIENT and options.is_alone:
            raise self._wrong("ROLE", "is 'client', which needs NODES or SERVICES: somebody to ask")

    def _wrong(self, name: str, what: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{self._names[name]} {what}.")

    def _number(self, name: str, default: int, least: int, most: int) -> int:
        value = self._given.get(name, default)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"is a whole number from {least} to {most}, not {value!r}")
        return value

    def _text(self, name: str, default: str, longest: int = 255) -> str:
        value = self._given.get(name, default)
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            raise self._wrong(name, f"is a text of 1 to {longest} characters, not {value!r}")
        return value

    def _addresses(self, name: str, port: int) -> tuple[str, ...]:
        value = self._given.get(name, ())
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise self._wrong(name, f"is a list of host or host:port, not {value!r}")
        return tuple(dict.fromkeys(self._address(name, item, port) for item in items if item != ""))

    def _address(self, name: str, item: object, port: int) -> str:
        if isinstance(item, str):
            try:
                return join_address(*split_address(item, port))
            except ValueError as error:
                raise self._wrong(name, f"holds {item!r}: {error}") from None
        raise self._wrong(name, f"is made of host or host:port, not {item!r}")

    def _advertise(self, port: int) -> str:
        return self._address("ADVERTISE", self._given["ADVERTISE"], port) if "ADVERTISE" in self._given else ""

    def _data_dir(self) -> Path:
        base = getattr(settings, "BASE_DIR", None)
        value = self._given.get("DATA_DIR", DEFAULT_DIRECTORY if base else None)
        if value is None and self._role() is Role.CLIENT:
            return Path()  # it has no data
        if value is None:
            raise self._wrong("DATA_DIR", "is missing (and there is no BASE_DIR to put the data beside)")
        if not isinstance(value, (str, Path)) or not str(value):
            raise self._wrong("DATA_DIR", f"is the path of a directory, not {value!r}")
        return Path(base or "", value).expanduser().absolute()

    def _role(self) -> Role:
        value = self._given.get("ROLE", Role.AUTO.value)
        try:
            return Role(value)
        except ValueError:
            raise self._wrong("ROLE", f"is 'auto', 'voter' or 'client', not {value!r}") from None

    def _secrets(self) -> tuple[str, ...]:
        if "SECRET" not in self._given:
            try:
                keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
            except ImproperlyConfigured:  # it is empty
                return ()
            return tuple(str(key) for key in keys if key)[:MAX_SECRETS]
        value = self._given["SECRET"]
        secrets = (value,) if isinstance(value, str) else value
        if not isinstance(secrets, (list, tuple)) or not 1 <= len(secrets) <= MAX_SECRETS:
            raise self._wrong("SECRET", f"is a text, or a list of 1 to {MAX_SECRETS}, the one in use first")
        if not all(isinstance(secret, str) and len(secret) >= SHORTEST_SECRET for secret in secrets):
            raise self._wrong("SECRET", f"is shorter than {SHORTEST_SECRET} characters, or no text")
        return tuple(secrets)

    def _tls(self) -> Tls | None:
        value = self._given.get("TLS")
        if value is None:
            return None
        if not isinstance(value, Mapping) or sorted(value) != sorted(TLS_KEYS):
            raise self._wrong("TLS", f"is a dict of {', '.join(TLS_KEYS)}: paths of files in PEM")
        for key in TLS_KEYS:
            if not Path(value[key]).is_file():
                raise self._wrong("TLS", f"has no file {value[key]!s} ({key})")
        return Tls(*(Path(value[key]) for key in TLS_KEYS))


def _founders(nodes: int, voters: int) -> int:
    """As many as may vote, and more than half of all: no two groups found a cluster each."""
    return max(min(voters, nodes), nodes // 2 + 1)


def is_loopback(address: str) -> bool:
    """Whether a host, or "host:port", certainly is this machine alone."""
    host = address if address == "localhost" or _is_number(address) else split_address(address, DEFAULT_PORT)[0]
    return ipaddress.ip_address(host).is_loopback if _is_number(host) else host == "localhost"


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
