"""Redis behind TLS. What ends it stands before the tests' server, with a certificate that a client trusts or not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from dref_django.backends.redis import RedisBackend
from dref_django.exceptions import Unavailable
from dref_django.protocol import Acquire, Add, Command, Notice, Status
from tests.listening import Listening, until
from tests.redis.conftest import MakeBackend
from tests.servers import HasUrl

TLS: Final = Path(__file__).parents[1] / "data" / "tls"
OURS: Final = {"ssl_ca_certs": str(TLS / "ours-ca.pem"), "ssl_check_hostname": False}
CERTIFIED: Final = {**OURS, "ssl_certfile": str(TLS / "ours.pem"), "ssl_keyfile": str(TLS / "ours-key.pem")}
THEIRS: Final = {**OURS, "ssl_ca_certs": str(TLS / "theirs-ca.pem")}


@pytest.mark.parametrize(("strict", "arguments"), [(False, OURS), (True, CERTIFIED)])
async def test_everything_works(
    make_backend: MakeBackend, redis_server: HasUrl, strict: bool, arguments: dict[str, Any]
) -> None:
    async with tls_before(redis_server, strict=strict) as url:
        backend = make_backend(URL=url, CLIENT_KWARGS=arguments)
        async with Listening(backend) as listening:
            await listening.feed.subscribe(["n"], [])
            for total, way in enumerate(("sync", "async"), 1):
                assert (await ask(backend, way, Add("n", 1, op=b"%08d" % total))).data == total
                assert (await ask(backend, way, Acquire(way, f"{backend.node_id()}/1", 10**7))).status is Status.APPLIED
            await until(lambda: len(listening.heard.notices) == 2)
            assert all(isinstance(notice, Notice) for notice in listening.heard.notices)
        backend.close()


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_certificate_of_another_authority_is_named(
    make_backend: MakeBackend, redis_server: HasUrl, way: str
) -> None:
    async with tls_before(redis_server, strict=False) as url:
        backend = make_backend(URL=url, CLIENT_KWARGS=THEIRS, timeout=1.0)
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(backend, way, Add("n", 1, op=b"12345678"))
        backend.close()


async def test_silence_instead_of_a_handshake_is_named(make_backend: MakeBackend) -> None:
    silent = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        silent.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    with pytest.raises(Unavailable, match="no connection within the time limit"):
        await make_backend(URL=url, timeout=0.3).aexecute([Add("n", 1, op=b"12345678")])
    server.close()
    await silent.wait()


async def ask(backend: RedisBackend, way: str, command: Command) -> Any:
    if way == "async":
        return (await backend.aexecute([command]))[0]
    return (await asyncio.to_thread(backend.execute, [command]))[0]


@asynccontextmanager
async def tls_before(server: HasUrl, *, strict: bool) -> AsyncIterator[str]:
    """The URL; `strict` asks for a certificate of the clients, too. They have hung up before the block is left."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "ours.pem", TLS / "ours-key.pem")
    if strict:
        context.load_verify_locations(TLS / "ours-ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield f"rediss://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
    listener.close()
    await asyncio.gather(*tasks)


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()
