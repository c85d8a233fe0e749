"""compose.yaml and Dockerfile name what there is: no container engine says so when they do not."""

from __future__ import annotations

import importlib.metadata
import re
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dref_django.backends import Params
from dref_django.backends.raft.options import ENVIRONMENT, read_options
from tests.containers.recipe import ROOT, SERVICE, command, compose, copied, environment, instructions, service
from tests.test_frame import extras, project


def web_port() -> str:
    arguments = command()
    return arguments[arguments.index("--port") + 1]


def test_service_looks_its_own_replicas_up_and_starts_as_many_as_found_the_cluster() -> None:
    options = read_options(Params(options={"SECRET": environment()["DREF_DEMO_SECRET"]}), environment())
    assert options.services == (f"{SERVICE}:{options.port}",)
    assert service()["deploy"]["replicas"] == options.bootstrap_expect == 3
    assert str(options.data_dir) in service()["volumes"], "a volume without a name: each replica has its own"
    assert str(options.port) in instructions("EXPOSE")[0].split()


@pytest.mark.parametrize("name", ["migrate", SERVICE])
def test_every_variable_is_read_by_somebody(name: str) -> None:
    demo = (ROOT / "example_project/settings.py").read_text()
    for variable in service(name)["environment"]:
        assert variable in ENVIRONMENT.values() or f'"{variable}"' in demo


def test_replicas_share_a_database_which_is_migrated_before_they_start() -> None:
    places = {name: environment(name)["DREF_DEMO_DIR"] for name in compose()["services"]}
    assert set(places.values()) == {"/data/database"}
    assert all("database:/data/database" in service(name)["volumes"] for name in places)
    assert service()["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert "migrate" in command("migrate")


def test_each_replica_gets_a_port_of_this_machine() -> None:
    (ports,) = service()["ports"]
    published = re.fullmatch(r"127\.0\.0\.1:\$\{DREF_DEMO_PORTS:-(\d+)-(\d+)\}:(\d+)", ports)
    assert published is not None
    first, last, inside = published.groups()
    assert int(last) - int(first) >= 3, "one more may come"
    assert inside == web_port()
    assert inside in instructions("EXPOSE")[0].split()


def test_health_check_asks_the_server_of_its_own_container() -> None:
    (url,) = re.findall(r'urlopen\("([^"]+)"', service()["healthcheck"]["test"][-1])
    parts = urlsplit(url)
    assert (parts.hostname, str(parts.port)) == ("127.0.0.1", web_port())


def test_volumes_begin_as_the_users_own() -> None:
    assert instructions("USER") == ["dref"]
    (made,) = [line for line in instructions("RUN") if "install --directory" in line]
    paths = {volume.rpartition(":")[2] for volume in service()["volumes"]}
    assert paths <= set(made.partition("--owner dref ")[2].split())


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    assert all((ROOT / path).exists() for path in copied())


def test_image_has_what_the_package_is_built_of_and_the_example_runs_on() -> None:
    assert {"pyproject.toml", project()["readme"], "LICENSE", "dref_django", "example_project"} == set(copied())
    (base,) = instructions("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version is not None
    assert SpecifierSet(str(project()["requires-python"])).contains(version[1])
    (installed,) = [line for line in instructions("RUN") if line.startswith("pip install")]
    (asked, server) = re.findall(r"'([^']+)'", installed)
    assert asked == ".[channels]"
    assert "channels" in extras()
    assert Requirement(server) in extras()["dev"], "the version that the tests run"
    assert command()[0] == Requirement(server).name
    assert command()[0] in {script.name for script in importlib.metadata.entry_points(group="console_scripts")}
