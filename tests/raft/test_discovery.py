"""What OPTIONS and the environment say, and where nodes are looked for."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Params
from dref_django.backends.raft import discovery, resolving
from dref_django.backends.raft.discovery import find_places, own_address
from dref_django.backends.raft.handshake import Secrets
from dref_django.backends.raft.options import Options, Role, is_loopback, read_options
from dref_django.backends.raft.resolving import join_address, resolve, split_address
from tests.processes import no_threads

CERTIFICATES = Path(__file__).parent.parent / "data" / "tls"
TLS = {
    "CERTIFICATE": CERTIFICATES / "ours.pem",
    "KEY": CERTIFICATES / "ours-key.pem",
    "CA": CERTIFICATES / "ours-ca.pem",
}
SECRET = "sixteen letters or more"


def read(environment: dict[str, str] | None = None, **given: Any) -> Options:
    return read_options(Params(options={"DATA_DIR": "/data", **given}), environment or {})


class TestOptions:
    def test_none_at_all_is_one_host_that_listens_to_nobody(self) -> None:
        options = read()
        assert options.is_alone
        assert (options.nodes, options.services) == ((), ())
        assert (options.bootstrap_expect, options.role, options.bind) == (1, Role.AUTO, "127.0.0.1")

    def test_static_nodes(self) -> None:
        options = read(NODES=["one.example", "two.example:9000", "[2001:db8::3]", "one.example"])
        assert options.nodes == ("one.example:8082", "two.example:9000", "[2001:db8::3]:8082")
        assert options.bootstrap_expect == 3
        assert options.bind == "0.0.0.0"
        assert not options.is_alone

    @pytest.mark.parametrize(
        ("nodes", "voters", "founders"),
        [(3, 5, 3), (5, 5, 5), (7, 5, 5), (5, 3, 3), (7, 3, 4), (10, 5, 6)],
    )
    def test_as_many_found_as_vote_and_more_than_half_of_all(self, nodes: int, voters: int, founders: int) -> None:
        assert read(NODES=[f"n{number}" for number in range(nodes)], VOTERS=voters).bootstrap_expect == founders

    def test_services_wait_for_three_nodes_unless_told_otherwise(self) -> None:
        assert read(SERVICES=["app"]).bootstrap_expect == 3
        assert read(SERVICES=["app"], BOOTSTRAP_EXPECT=5).bootstrap_expect == 5
        assert read(SERVICES=["app"], PORT=9000).services == ("app:9000",)

    def test_nodes_on_loopback_stay_there(self) -> None:
        assert read(NODES=["127.0.0.2", "localhost", "[::1]:9"]).bind == "127.0.0.1"

    def test_environment_supplies_what_the_settings_leave_open(self) -> None:
        environment = {
            "DREF_NODE_ADDRESSES": "one, two:9000,",
            "DREF_NODE_SERVICES": "app",
            "DREF_PORT": "9001",
            "DREF_DATA_DIR": "/elsewhere",
        }
        options = read_options(Params(), environment)
        assert options.nodes == ("one:9001", "two:9000")
        assert options.services == ("app:9001",)
        assert options.port == 9001
        assert options.data_dir == Path("/elsewhere")
        assert read(environment, PORT=7).port == 7
        assert read(environment).data_dir == Path("/data")

    def test_data_lies_beside_the_project(self, settings: Any, tmp_path: Path) -> None:
        settings.BASE_DIR = tmp_path
        assert read_options(Params(), {}).data_dir == tmp_path / "dref-data"
        assert read_options(Params(options={"DATA_DIR": "state"}), {}).data_dir == tmp_path / "state"

    def test_secret_is_the_projects_own_and_its_fallbacks(self, settings: Any) -> None:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["old"]
        assert read().secrets.keys == Secrets(["new", "old"], "dref").keys
        assert read(SECRET=SECRET, CLUSTER="shop").secrets.keys == Secrets([SECRET], "shop").keys
        assert read(SECRET=[SECRET, SECRET + "2"]).secrets.keys == Secrets([SECRET, SECRET + "2"], "dref").keys

    def test_secret_does_not_show(self) -> None:
        assert SECRET not in repr(read(SECRET=SECRET))

    @pytest.mark.parametrize("given", [{"NODES": ["10.0.0.1"]}, {"SERVICES": ["app"]}, {"BIND": "0.0.0.0"}])
    def test_beyond_loopback_there_must_be_a_secret(self, settings: Any, given: dict[str, Any]) -> None:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "", []
        with pytest.raises(ImproperlyConfigured, match=r"\['SECRET'\] is missing, and so is SECRET_KEY"):
            read(**given)
        read(**given, SECRET=SECRET)

    def test_on_loopback_there_need_not_be_one(self, settings: Any) -> None:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "", []
        assert read(NODES=["127.0.0.2:1", "127.0.0.3:1"]).secrets.keys == Secrets([], "dref").keys

    def test_tls_files_become_contexts_that_demand_a_certificate(self) -> None:
        options = read(TLS=TLS)
        for context in (options.listen_tls, options.dial_tls):
            assert context is not None
            assert context.verify_mode is ssl.CERT_REQUIRED
        assert read().listen_tls is None

    def test_aliases_with_one_directory_share_a_node(self) -> None:
        assert read(PORT=1).place == read(PORT=2).place
        assert read().place != read(DATA_DIR="/other").place
        clients = [read(ROLE="client", NODES=["a"], DATA_DIR=directory).place for directory in ("/one", "/two")]
        assert clients[0] == clients[1]

    @pytest.mark.parametrize(
        ("given", "what"),
        [
            ({"NODE": []}, "no option 'NODE' on raft; there are NODES"),
            ({"PORT": 0}, r"\['PORT'\] is a whole number from 1 to 65535, not 0"),
            ({"PORT": True}, "not True"),
            ({"VOTERS": 10}, r"\['VOTERS'\] is a whole number from 1 to 9"),
            ({"NODES": 5}, "is a list of host or host:port"),
            ({"NODES": [("a", 1)]}, "is made of host or host:port"),
            ({"NODES": ["::1"]}, "IPv6 address in brackets"),
            ({"NODES": ["a:http"]}, "no port from 1 to 65535"),
            ({"ADVERTISE": "a b"}, r"\['ADVERTISE'\] holds 'a b'"),
            ({"CLUSTER": ""}, "text of 1 to 100 characters"),
            ({"DATA_DIR": 5}, "path of a directory"),
            ({"ROLE": "leader"}, "'auto', 'voter' or 'client'"),
            ({"ROLE": "client"}, "needs NODES or SERVICES"),
            ({"SECRET": "short"}, "shorter than 16 characters"),
            ({"SECRET": []}, "a list of 1 to 8"),
            ({"SECRET": [SECRET, 5]}, "or no text"),
            ({"TLS": {"KEY": "x"}}, "a dict of CERTIFICATE, KEY, CA"),
            ({"TLS": {**TLS, "CA": "/no/such/file"}}, r"has no file /no/such/file \(CA\)"),
            ({"SERVICES": ["a"], "BOOTSTRAP_EXPECT": 100}, "BOOTSTRAP_EXPECT"),
        ],
    )
    def test_mistakes_are_named(self, given: dict[str, Any], what: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=what):
            read(**given)

    def test_mistakes_in_the_environment_name_the_variable(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="the environment's DREF_PORT is a whole number"):
            read({"DREF_PORT": "http"})

    def test_client_needs_no_directory(self) -> None:
        assert read_options(Params(options={"NODES": ["a"], "ROLE": "client"}), {}).role is Role.CLIENT

    def test_missing_directory_is_named(self, settings: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"\['DATA_DIR'\] is missing"):
            read_options(Params(), {})


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [("a:1", ("a", 1)), ("127.0.0.1:8082", ("127.0.0.1", 8082)), ("[::1]:8082", ("::1", 8082))],
    )
    def test_are_taken_apart_and_put_together(self, text: str, parts: tuple[str, int]) -> None:
        assert split_address(text) == parts
        assert join_address(*parts) == text

    @pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:b", "::1", "[::1", "[::1]x:1", "a b:1"])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"it |brackets"):
            split_address(text)

    @pytest.mark.parametrize(
        ("address", "is_near"),
        [
            ("127.0.0.9", True),
            ("::1", True),
            ("[::1]:1", True),
            ("localhost:5", True),
            ("0.0.0.0", False),
            ("a", False),
        ],
    )
    def test_loopback(self, address: str, is_near: bool) -> None:
        assert is_loopback(address) is is_near


def answering(answers: dict[str, list[str]]) -> Callable[..., Any]:
    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host not in answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answers[host]]

    return getaddrinfo


class TestLookingUp:
    async def test_service_is_all_its_addresses_as_they_are_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = {"app": ["10.0.0.2", "10.0.0.1", "10.0.0.2"]}
        monkeypatch.setattr(socket, "getaddrinfo", answering(answers))
        options = read(NODES=["first:1"], SERVICES=["app"])
        assert await find_places(options) == {"first:1", "10.0.0.1:8082", "10.0.0.2:8082"}
        answers["app"] = ["10.0.0.3"]
        assert await find_places(options) == {"first:1", "10.0.0.3:8082"}

    async def test_numbers_are_not_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answering({}))
        assert await resolve("127.0.0.1") == ["127.0.0.1"]
        assert await resolve("::1") == ["::1"]

    async def test_service_that_is_not_known_yet_is_an_error_only_when_nothing_else_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answering({"other": ["10.0.0.1"]}))
        assert await find_places(read(SERVICES=["app", "other"])) == {"10.0.0.1:8082"}
        with pytest.raises(OSError, match="the service 'app' cannot be looked up"):
            await find_places(read(SERVICES=["app"]))

    async def test_name_server_that_hangs_takes_a_bounded_number_of_threads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = threading.Event()

        def hang(*_: Any, **__: Any) -> list[Any]:
            gate.wait(10)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        monkeypatch.setattr(resolving, "_lookups", threading.BoundedSemaphore(2))
        hanging = [asyncio.ensure_future(resolve("slow.example")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="the name server is slow"):
            await resolve("slow.example")
        gate.set()
        assert await asyncio.gather(*hanging) == [[], []]

    async def test_lookup_that_gets_no_thread_leaves_room_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answering({"app": ["10.0.0.1"]}))
        monkeypatch.setattr(resolving, "_lookups", threading.BoundedSemaphore(1))
        with no_threads(), pytest.raises(OSError, match="'app' cannot be looked up: the system gives no thread"):
            await resolve("app")
        assert await resolve("app") == ["10.0.0.1"]

    async def test_many_addresses_are_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answering({"app": [f"10.0.0.{n}" for n in range(9)]}))
        monkeypatch.setattr(discovery, "MAX_ADDRESSES", 3)
        assert len(await find_places(read(SERVICES=["app"]))) == 3


class TestOwnAddress:
    def test_is_what_is_advertised(self) -> None:
        assert own_address(read(ADVERTISE="me.example", BIND="10.0.0.1"), 8082) == "me.example:8082"
        assert own_address(read(ADVERTISE="me.example:1"), 8082) == "me.example:1"

    def test_is_else_what_is_bound(self) -> None:
        assert own_address(read(BIND="127.0.0.5"), 9) == "127.0.0.5:9"
        assert own_address(read(BIND="::1"), 9) == "[::1]:9"

    def test_is_else_what_the_others_would_see(self) -> None:
        options = read(BIND="0.0.0.0")
        assert own_address(options, 9, ["name.example:1", "127.0.0.7:1"]) == "127.0.0.1:9"

    def test_is_else_the_name_of_this_machine(self) -> None:
        assert own_address(read(BIND="0.0.0.0"), 9, ["name.example:1"]) == f"{socket.gethostname()}:9"
