"""Connections on real sockets, and what strangers, replays and silence do to them: nothing."""

import asyncio
import logging
import os
import random
import resource
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dref_django.backends.raft import acceptor, channel, dialing, links
from dref_django.backends.raft.frames import plain, sealed_size
from dref_django.backends.raft.handshake import HandshakeError
from dref_django.backends.raft.options import Tls
from dref_django.backends.raft.refusals import LOG_PERIOD, Refusals
from dref_django.backends.raft.transport import Acceptor, Back, Channel, Links, Secrets, TransportError, dial
from tests.listening import until
from tests.servers import free_port

SECRETS = Secrets(["a secret of these tests"], "shop")
CERTIFICATES = Path(__file__).parent.parent / "data" / "tls"
Welcome = Callable[[Channel], Awaitable[None]]


async def echo(channel: Channel) -> None:
    try:
        while True:
            channel.send(await channel.receive())
    except EOFError:
        return


@asynccontextmanager
async def accepting(
    welcome: Welcome = echo, port: int = 0, name: str = "acceptor", tls: Tls | None = None
) -> AsyncIterator[tuple[Acceptor, str]]:
    context = None if tls is None else tls.context(ssl.Purpose.CLIENT_AUTH)
    listening = Acceptor(SECRETS, lambda: {"node": name}, welcome, tls=context)
    port = await listening.listen("127.0.0.1", port)
    try:
        yield listening, f"127.0.0.1:{port}"
    finally:
        await listening.close()


@asynccontextmanager
async def dialled(address: str | Path, secrets: Secrets = SECRETS) -> AsyncIterator[Channel]:
    dialled = await dial(address, secrets, {"node": "dialer"})
    try:
        yield dialled
    finally:
        dialled.close()
        await dialled.closed()


async def is_served(address: str) -> bool:
    """Whether a node that belongs here gets its answer."""
    async with dialled(address) as good:
        good.send(b"still there?")
        return await good.receive() == b"still there?"


async def stranger(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


class Relay:
    """Stands between dialer and acceptor, as somebody on the network would."""

    def __init__(self, address: str) -> None:
        self._target = address
        self.said: list[bytes] = []  # by the dialer
        self.is_mute = False
        self._writers: list[asyncio.StreamWriter] = []
        self._onward: asyncio.StreamWriter

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, self._onward = await stranger(self._target)
        self._writers += [writer, self._onward]
        await asyncio.gather(self._pump(reader, self._onward, self.said), self._pump(onward_reader, writer, []))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: list[bytes]) -> None:
        while data := await reader.read(65536):
            said.append(data)
            if not self.is_mute:
                writer.write(data)
        writer.close()

    def inject(self, data: bytes) -> None:
        self._onward.write(data)


class TestFrames:
    async def test_go_both_ways_in_order(self) -> None:
        async with accepting() as (_, address), dialled(address) as mine:
            assert mine.peer == {"node": "acceptor"}
            for number in range(500):
                assert mine.send(b"%d" % number)
            assert [await mine.receive() for _ in range(500)] == [b"%d" % number for number in range(500)]

    async def test_large_ones_arrive_whole(self) -> None:
        large = bytes(range(256)) * 20_000
        async with accepting() as (_, address), dialled(address) as mine:
            mine.send(large)
            mine.send(b"small")
            assert await mine.receive() == large
            assert await mine.receive() == b"small"

    async def test_acceptor_knows_who_is_there(self) -> None:
        peers: list[object] = []

        async def welcome(channel: Channel) -> None:
            peers.append(channel.peer)

        async with accepting(welcome) as (_, address), dialled(address) as mine:
            await mine.closed()
        assert peers == [{"node": "dialer"}]

    async def test_can_be_delivered_instead_of_fetched(self) -> None:
        heard: list[bytes] = []
        async with accepting() as (_, address), dialled(address) as mine:
            mine.send(b"one")
            await until(lambda: bool(mine._frames))
            mine.deliver_to(heard.append)
            mine.send(b"two")
            await until(lambda: len(heard) == 2)
        assert heard == [b"one", b"two"]

    async def test_dialer_says_in_its_log_why_it_ended_a_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        def deliver(frame: bytes) -> None:
            raise ValueError("this means nothing")

        with caplog.at_level(logging.WARNING, "dref_django"):
            async with accepting() as (_, address), dialled(address) as mine:
                mine.deliver_to(deliver)
                mine.send(b"?")
                await mine.closed()
        assert caplog.messages == [f"dref: the connection to {address} was ended: this means nothing"]

    async def test_nonsense_in_a_genuine_frame_ends_the_connection(self) -> None:
        def deliver(frame: bytes) -> None:
            raise ValueError("this means nothing")

        async def welcome(channel: Channel) -> None:
            channel.deliver_to(deliver)
            await channel.closed()

        async with accepting(welcome) as (listening, address), dialled(address) as mine:
            mine.send(b"?")
            await mine.closed()
            assert listening.refusals.counts == {"frame": 1}
            assert not mine.send(b"more")

    async def test_end_of_connection_is_end_of_file(self) -> None:
        async with accepting() as (listening, address), dialled(address) as mine:
            await listening.close()
            with pytest.raises(EOFError):
                await mine.receive()

    async def test_peer_that_does_not_read_fills_a_bounded_buffer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "MAX_UNSENT", 1 << 20)
        monkeypatch.setattr(channel, "MAX_UNREAD", 1 << 16)
        accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

        async def welcome(channel: Channel) -> None:
            accepted.set_result(channel)
            await channel.closed()

        async with accepting(welcome) as (_, address), dialled(address) as mine:
            sent = 0
            while mine.send(b"x" * 50_000):
                sent += 1
                await asyncio.sleep(0)
            assert sent < 1000
            peer = await accepted
            for _ in range(sent):  # it only waited
                await peer.receive()
            assert mine.send(b"again")
            assert await peer.receive() == b"again"

    async def test_frame_beyond_the_limit_is_not_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "MAX_FRAME", 100)
        async with accepting() as (_, address), dialled(address) as mine:
            assert not mine.send(b"x" * 101)
            assert mine.send(b"x" * 100)
            assert len(await mine.receive()) == 100


class TestPlaces:
    async def test_unix_socket_is_the_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "node.sock"
        listening = Acceptor(SECRETS, dict, echo)
        for _ in range(2):  # a socket that was left behind is taken over
            await listening.listen_unix(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with dialled(path) as mine:
            mine.send(b"hello")
            assert await mine.receive() == b"hello"
        await listening.close()

    async def test_unix_socket_leaves_the_umask_alone_which_all_threads_share(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "node.sock"
        listening = Acceptor(SECRETS, dict, echo)
        monkeypatch.setattr(os, "umask", None)
        await listening.listen_unix(path)
        await listening.close()

    async def test_unix_socket_needs_the_secret_too(self, tmp_path: Path) -> None:
        listening = Acceptor(SECRETS, dict, echo)
        await listening.listen_unix(tmp_path / "node.sock")
        with pytest.raises(HandshakeError, match="another secret"):
            await dial(tmp_path / "node.sock", Secrets(["not the one"], "shop"), {})
        await listening.close()

    async def test_port_in_use_is_one_clear_error(self) -> None:
        async with accepting() as (_, address):
            port = int(address.rpartition(":")[2])
            with pytest.raises(TransportError, match=r"cannot listen on 127\.0\.0\.1:\d+.*PORT \(or DREF_PORT\)"):
                await Acceptor(SECRETS, dict, echo).listen("127.0.0.1", port)

    @pytest.mark.parametrize("bind", ["203.0.113.7", "no such host.invalid"])
    async def test_address_of_another_machine_is_one_clear_error(self, bind: str) -> None:
        with pytest.raises(TransportError, match="BIND"):
            await Acceptor(SECRETS, dict, echo).listen(bind, free_port())

    async def test_names_are_looked_up_at_each_dial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        places = [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"], []]

        async def resolve(host: str) -> list[str]:
            assert host == "node.example"
            return places.pop(0)

        monkeypatch.setattr(dialing, "resolve", resolve)
        async with accepting() as (_, address):
            name = "node.example:" + address.rpartition(":")[2]
            for _ in range(2):
                assert await is_served(name)
            with pytest.raises(OSError, match="no address"):
                await dial(name, SECRETS, {})

    async def test_nobody_there_is_a_refused_connection(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            await dial(f"127.0.0.1:{free_port()}", SECRETS, {})

    async def test_dialer_does_not_wait_for_a_silent_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(TimeoutError, match=r"within 0\.1 seconds"):
                await dial(f"127.0.0.1:{silent.getsockname()[1]}", SECRETS, {}, timeout=0.1)

    async def test_other_service_at_the_port_is_told_apart(self) -> None:
        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(plain(b"HTTP/1.1 400 Bad Request"))
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(HandshakeError, match="does not speak the protocol of dref_django"):
                await dial(f"127.0.0.1:{port}", SECRETS, {})


class TestStrangers:
    @pytest.mark.parametrize(
        ("secrets", "counted", "told"),
        [
            (Secrets(["a wrong secret"], "shop"), "secret", "another secret"),
            (Secrets(["a secret of these tests"], "blog"), "cluster", "another cluster"),
        ],
    )
    async def test_wrong_key_or_cluster(self, secrets: Secrets, counted: str, told: str) -> None:
        async with accepting() as (listening, address):
            with pytest.raises(HandshakeError, match=told):
                await dial(address, secrets, {})
            await until(lambda: listening.refusals.counts == {counted: 1})
            assert await is_served(address)

    async def test_port_scanner(self) -> None:
        async with accepting() as (listening, address):
            for _ in range(50):
                _, writer = await stranger(address)
                writer.close()
            assert await is_served(address)
            await until(lambda: listening.refusals.counts == {"closed": 50})

    @pytest.mark.parametrize(
        "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0\0\0\x05hello", b"\0\0\0\0", b"\xff" * 100]
    )
    async def test_garbage_is_hung_up_on_without_a_word(self, said: bytes) -> None:
        async with accepting() as (listening, address):
            reader, writer = await stranger(address)
            writer.write(said)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            assert listening.refusals.counts == {"garbage": 1}
            assert await is_served(address)

    async def test_slow_loris_is_hung_up_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT", 0.2)
        async with accepting() as (listening, address):
            reader, writer = await stranger(address)
            writer.write(b"\0\0\0")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            await until(lambda: listening.refusals.counts == {"timeout": 1})
            assert await is_served(address)

    async def test_thousand_silent_connections_keep_nobody_out(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < 2500:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(2500, hard), hard))
        strangers = []
        async with accepting() as (listening, address):
            for number in range(1000):
                strangers.append(await stranger(address))
                if number % 250 == 0:
                    assert await is_served(address)
            assert await is_served(address)
            assert len(listening._pending) <= acceptor.MAX_PENDING
            await until(lambda: listening.refusals.counts["crowded"] >= 1000 - acceptor.MAX_PENDING)
            # The rest was hung up on.
            await until(lambda: sum(reader.at_eof() for reader, _ in strangers) >= 1000 - acceptor.MAX_PENDING)
        for _, writer in strangers:
            writer.transport.abort()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def test_authenticated_ones_are_bounded_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acceptor, "MAX_CHANNELS", 1)
        async with accepting() as (listening, address), dialled(address), dialled(address) as second:
            with pytest.raises(EOFError):
                await second.receive()
            assert listening.refusals.counts == {"crowded": 1}

    async def test_replayed_handshake_is_refused(self) -> None:
        async with accepting() as (listening, address), Relay(address) as relay:
            assert await is_served(relay.address)
            _, writer = await stranger(address)
            for said in relay.said:
                writer.write(said)
            await until(lambda: listening.refusals.counts == {"secret": 1})
            writer.close()
            assert await is_served(address)

    async def test_replayed_frame_is_refused(self) -> None:
        heard: list[bytes] = []

        async def welcome(channel: Channel) -> None:
            channel.deliver_to(heard.append)
            await channel.closed()

        async with accepting(welcome) as (listening, address), Relay(address) as relay:
            async with dialled(relay.address) as mine:
                mine.send(b"pay 100")
                await until(lambda: heard == [b"pay 100"])
                relay.inject(relay.said[-1])
                await mine.closed()
            assert heard == [b"pay 100"]
            assert listening.refusals.counts == {"frame": 1}

    @pytest.mark.parametrize("seed", range(3))
    async def test_handshakes_that_are_cut_off_mixed_up_or_full_of_garbage(self, seed: int) -> None:
        dice = random.Random(seed)
        async with accepting() as (listening, address), Relay(address) as relay:
            assert await is_served(relay.address)
            genuine = list(relay.said)
            for _ in range(60):
                said = bytearray(b"".join(dice.sample(genuine, len(genuine)) if dice.random() < 0.5 else genuine))
                for _ in range(dice.randrange(4)):
                    said[dice.randrange(len(said))] = dice.randrange(256)
                reader, writer = await stranger(address)
                writer.write(said[: dice.randrange(len(said) + 1)] + dice.randbytes(dice.randrange(50)))
                with suppress(OSError):
                    writer.write_eof()
                    await reader.read()
                writer.close()
            await until(lambda: listening.refusals.counts.total() == 60)
            assert await is_served(address)

    async def test_bytes_of_others_within_a_connection_end_it(self) -> None:
        async with accepting() as (listening, address), Relay(address) as relay:
            async with dialled(relay.address) as mine:
                relay.inject(b"\0\0\0\x05" + b"c" * 16 + b"hello")
                with pytest.raises(EOFError):
                    await mine.receive()
            assert listening.refusals.counts == {"frame": 1}
            assert await is_served(address)


class TestSilence:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "PING", 0.02)

    async def test_idle_connection_stays(self) -> None:
        async with accepting() as (_, address), Relay(address) as relay, dialled(relay.address) as mine:
            pings = len(relay.said)
            await until(lambda: len(relay.said) > pings + 3 * channel.SILENCE)
            mine.send(b"hello")
            assert await mine.receive() == b"hello"

    async def test_peer_that_is_cut_off_without_a_word_counts_as_gone(self) -> None:
        async with accepting() as (_, address), Relay(address) as relay, dialled(relay.address) as mine:
            relay.is_mute = True
            with pytest.raises(EOFError):
                await mine.receive()
            assert not mine.send(b"hello?")


def tls(whose: str = "ours", ca: str = "ours") -> Tls:
    return Tls(CERTIFICATES / f"{whose}.pem", CERTIFICATES / f"{whose}-key.pem", CERTIFICATES / f"{ca}-ca.pem")


class TestTls:
    async def test_frames_within_tls(self) -> None:
        async with accepting(tls=tls()) as (_, address):
            mine = await dial(address, SECRETS, {}, tls=tls().context(ssl.Purpose.SERVER_AUTH))
            mine.send(b"hello" * 100_000)
            assert await mine.receive() == b"hello" * 100_000
            mine.close()
            await mine.closed()

    async def test_certificate_of_another_authority_is_refused(self) -> None:
        async with accepting(tls=tls()) as (listening, address):
            context = tls("theirs").context(ssl.Purpose.SERVER_AUTH)
            with pytest.raises((OSError, TransportError)):
                await dial(address, SECRETS, {}, tls=context)
            await until(lambda: listening.refusals.counts["tls"] == 1)

    async def test_acceptor_of_another_authority_is_refused(self) -> None:
        async with accepting(tls=tls("theirs", "ours")) as (_, address):
            with pytest.raises(ssl.SSLCertVerificationError):
                await dial(address, SECRETS, {}, tls=tls().context(ssl.Purpose.SERVER_AUTH))

    async def test_stranger_who_says_nothing_keeps_no_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT", 0.2)
        async with accepting(tls=tls()) as (listening, address):
            _, writer = await stranger(address)
            await until(lambda: listening.refusals.counts == {"timeout": 1})
            writer.close()


class TestLinks:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(links, "LONGEST_PAUSE", 0.05)

    @pytest.fixture
    async def heard(self) -> list[tuple[str, bytes]]:
        return []

    @pytest.fixture
    async def mine(self, heard: list[tuple[str, bytes]]) -> AsyncIterator[Links]:
        made = Links(SECRETS, lambda: {"node": "me"}, lambda node, frame, back: heard.append((node, frame)))
        yield made
        await made.close()

    async def test_connect_again_when_the_node_is_back(self, mine: Links, heard: list[tuple[str, bytes]]) -> None:
        async with accepting(name="b") as (_, address):
            mine.point("b", address)
            await until(lambda: mine.is_up("b"))
            assert mine.send("b", b"one")
            await until(lambda: heard == [("b", b"one")])
        await until(lambda: mine.is_gone("b"))
        assert not mine.send("b", b"lost")
        async with accepting(name="b", port=int(address.rpartition(":")[2])):
            await until(lambda: mine.is_up("b"))
            assert not mine.is_gone("b")
            mine.send("b", b"two")
            await until(lambda: heard == [("b", b"one"), ("b", b"two")])

    async def test_follow_a_node_to_its_new_address(self, mine: Links) -> None:
        async with accepting(name="b") as (_, new):
            async with accepting(name="b") as (_, old):
                mine.point("b", old)
                await until(lambda: mine.is_up("b"))
                mine.point("b", new)
                assert mine.is_up("b")  # what works is left alone
                assert mine.addresses() == {"b": old}
            await until(lambda: mine.addresses() == {"b": new} and mine.is_up("b"))
            mine.forget("b")
            await until(lambda: not mine.is_up("b"))

    async def test_do_not_wait_for_an_address_that_is_no_longer_the_right_one(self, mine: Links) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            mine.point("b", f"127.0.0.1:{silent.getsockname()[1]}")
            async with accepting(name="b") as (_, address):
                mine.point("b", address)
                await until(lambda: mine.is_up("b"))

    async def test_do_not_take_another_node_for_the_one_that_was_there(
        self, mine: Links, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with accepting(name="c") as (_, address):
            with caplog.at_level(logging.WARNING, "dref_django"):
                mine.point("b", address)
                await until(lambda: "is another node now, c" in caplog.text)
            assert not mine.is_up("b")
            assert not mine.send("b", b"for b only")

    async def test_answer_over_the_connection_of_a_node_that_cannot_be_reached(
        self, mine: Links, heard: list[tuple[str, bytes]]
    ) -> None:
        async with accepting(mine.adopt) as (_, address):
            async with dialled(address) as theirs:
                theirs.send(b"from behind a wall")
                await until(lambda: heard == [("dialer", b"from behind a wall")])
                assert mine.is_up("dialer")
                assert mine.send("dialer", b"heard you")
                assert await theirs.receive() == b"heard you"
            await until(lambda: not mine.is_up("dialer"))

    async def test_answers_go_back_the_way_the_question_came_and_no_other(self) -> None:
        heard: list[tuple[bytes, Back]] = []
        mine = Links(SECRETS, lambda: {"node": "me"}, lambda node, frame, back: heard.append((frame, back)))
        async with accepting(mine.adopt) as (_, address):
            async with dialled(address) as theirs:
                theirs.send(b"question")
                await until(lambda: bool(heard))
                ((_, back),) = heard
                async with dialled(address) as later:
                    later.send(b"there")
                    await until(lambda: len(heard) == 2)
                    assert back(b"answer")
                    assert await theirs.receive() == b"answer"
                    assert mine.sent_bytes == sealed_size(b"answer")
                    theirs.close()
                    await theirs.closed()
                    await until(lambda: not back(b"answer to one that is gone"))
                    assert mine.send("dialer", b"the other way is open")
                    assert await later.receive() == b"the other way is open"
        await mine.close()

    async def test_forget_a_node_that_is_gone_for_good(self, mine: Links, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(links, "GIVE_UP", 0.05)
        mine.point("b", f"127.0.0.1:{free_port()}")
        await until(lambda: not mine.addresses())
        async with accepting(name="b") as (_, address):
            mine.point("b", address)
            await until(lambda: mine.is_up("b"))

    async def test_complain_once_for_each_kind_of_trouble(
        self, mine: Links, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts: list[str] = []

        async def counted(address: str, *args: Any, **kwargs: Any) -> Channel:
            attempts.append(address)
            return await dial(address, *args, **kwargs)

        monkeypatch.setattr(links, "dial", counted)
        with caplog.at_level(logging.INFO, "dref_django"):
            port = free_port()
            mine.point("b", f"127.0.0.1:{port}")
            await until(lambda: len(attempts) > 3)
            async with accepting(name="b", port=port):
                await until(lambda: mine.is_up("b"))
        assert ["no connection" in message for message in caplog.messages] == [True, False]


class TestRefusals:
    def test_are_all_counted_and_logged_now_and_then(self, caplog: pytest.LogCaptureFixture) -> None:
        now = 0.0
        refusals = Refusals(lambda: now)
        with caplog.at_level(logging.WARNING, "dref_django"):
            for _ in range(100):
                refusals.note("garbage", "10.0.0.1:1234", "it speaks HTTP")
            refusals.note("secret", "10.0.0.2:1234", "wrong secret")
            now = LOG_PERIOD
            refusals.note("garbage", "10.0.0.1:1234", "it speaks HTTP")
        assert refusals.counts == {"garbage": 101, "secret": 1}
        assert [message.partition(": ")[2] for message in caplog.messages] == [
            "turned away 10.0.0.1:1234: it speaks HTTP",
            "turned away 10.0.0.2:1234: wrong secret",
            "turned away 10.0.0.1:1234: it speaks HTTP (and 99 others before)",
        ]
