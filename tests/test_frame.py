"""The frame of the project: what is installed, what is packed, which module may import which."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dref_django"

# A module may import from its own layer and from those above it in this list, never from one below.
LAYERS = [
    {"exceptions", "protocol", "deltas", "codecs"},  # vocabulary
    {"leases", "store"},
    {"background", "backends", "clock", "commits", "conf", "driving", "naming", "process", "threads", "waiting"},
    {"cells", "entries", "flows", "held", "hub", "keeper", "leasing", "mirror", "rereading", "streams", "topics"}
    | {"flushing", "observations", "op_ids", "sums", "workspace"},
    {"binding", "catalog", "counters", "elections", "fenced_models", "fencing", "flags", "history", "hot_counters"}
    | {"inspection", "locks", "on_commit", "partitions", "refs"}
    | {"attendance", "presence", "run_once", "semaphores", "transactions"},
    {"__init__", "admin", "apps", "checks", "commandline", "fields", "health", "live", "management", "metrics"}
    | {"migrations", "models", "pytest_plugin", "signals", "templatetags", "testing", "tracing"},  # the Django edges
]
# These only compute: what they mean depends on their arguments alone.
PURE = ("exceptions", "protocol", "deltas", "codecs", "leases", "store", "backends/raft/core")
IMPURE = {"asyncio", "django", "os", "random", "secrets", "select", "socket", "ssl", "subprocess", "threading", "time"}


@cache
def project() -> dict[str, object]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def extras() -> dict[str, list[Requirement]]:
    declared = project()["optional-dependencies"]
    assert isinstance(declared, dict)
    return {name: [Requirement(line) for line in lines] for name, lines in declared.items()}


def plain_install() -> list[Requirement]:
    declared = project()["dependencies"]
    assert isinstance(declared, list)
    return [Requirement(line) for line in declared]


def tracked_files() -> Iterator[Path]:
    """What belongs to the project: in a clone git's files, elsewhere (an unpacked source archive) every file."""
    if not (ROOT / ".git").exists():
        yield from (path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts)
        return
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            yield ROOT / name


class TestPackaging:
    def test_plain_install_pulls_only_what_every_user_needs(self) -> None:
        assert {requirement.name for requirement in plain_install()} == {"Django", "msgpack"}

    def test_every_back_end_that_needs_more_has_an_extra_of_its_name(self) -> None:
        assert {"redis", "postgres", "channels", "raft", "dev"} <= set(extras())

    def test_dev_installs_every_other_extra(self) -> None:
        (own,) = [each for each in extras()["dev"] if each.name == "dref-django"]
        assert own.extras == set(extras()) - {"dev", "bench"}

    def test_every_requirement_is_bounded_above_and_met_here(self) -> None:
        not_installed = {requirement.name for requirement in extras()["bench"]}
        for requirement in chain(plain_install(), *extras().values()):
            if requirement.name != "dref-django":
                assert any(part.operator in {"<", "<=", "=="} for part in requirement.specifier), requirement
            is_wanted_here = requirement.marker is None or requirement.marker.evaluate()
            if is_wanted_here and requirement.name not in {"dref-django", *not_installed}:
                assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), requirement

    def test_wheel_carries_every_tracked_file_of_the_package(self) -> None:
        packed = {Path(included.path) for included in WheelBuilder(str(ROOT)).recurse_included_files()}
        assert {path for path in tracked_files() if PACKAGE in path.parents} <= packed
        assert PACKAGE / "py.typed" in packed

    def test_wheel_declares_every_licence_that_it_carries(self) -> None:
        packed = [path for path in tracked_files() if PACKAGE in path.parents or path.parent == ROOT]
        licences = {str(path.relative_to(ROOT)) for path in packed if path.name.startswith("LICENSE")}
        assert licences == set(ProjectMetadata(str(ROOT), None).core.license_files)
        assert "dref_django/static/dref_django/vendor/uplot/LICENSE" in licences

    def test_works_without_any_extra(self) -> None:
        optional = ["redis", "django_redis", "psycopg", "psycopg_pool", "channels", "msgspec"]
        optional += ["prometheus_client", "opentelemetry"]
        program = (
            "import sys\n"
            f"sys.modules.update(dict.fromkeys({optional!r}))\n"  # None: importing it raises ImportError
            "from django.conf import settings\n"
            "settings.configure(INSTALLED_APPS=['dref_django'], DEBUG=True)\n"
            "import django, dref_django\n"
            "django.setup()\n"
            "for name in getattr(dref_django, '__all__', ()):\n"
            "    getattr(dref_django, name)\n"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


class TestProjectFiles:
    def test_licence_is_apache_2(self) -> None:
        assert project()["license"] == "Apache-2.0"
        assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()

    def test_changelog_says_what_is_unreleased_one_line_a_change(self) -> None:
        _, _, unreleased = (ROOT / "CHANGELOG.md").read_text().partition("\n## Unreleased\n")
        changes = [line for line in unreleased.split("\n## ")[0].splitlines() if line]
        assert changes
        assert all(line.startswith("- ") for line in changes)

    def test_no_file_names_a_path_of_one_machine(self) -> None:
        machine_path = re.compile(rb"(?<![\w.~-])/(?:" + rb"|".join([rb"work", rb"root"]) + rb")/")
        named = [path.relative_to(ROOT) for path in tracked_files() if machine_path.search(path.read_bytes())]
        assert not named

    def test_nothing_is_left_for_later(self) -> None:
        marks = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
        sources = [path for path in tracked_files() if path.suffix in {".py", ".js", ".sql", ".lua"}]
        assert not [path.relative_to(ROOT) for path in sources if marks.search(path.read_text())]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def names(path: Path) -> tuple[str, ...]:
    """The package's module as its dotted name in parts, ``("dref_django", "backends", "memory")``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Every module that a file imports, wherever in the file it does so, as dotted names in parts."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield (*base, alias.name) if _is_module((*base, alias.name)) else base


def _is_module(parts: tuple[str, ...]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.with_suffix(".py").is_file() or (path.is_dir() and parts[0] == PACKAGE.name)


def layer(parts: tuple[str, ...]) -> int:
    top = parts[1] if len(parts) > 1 else "__init__"
    for rank, members in enumerate(LAYERS):
        if top in members:
            return rank
    pytest.fail(f"{'.'.join(parts)} has no place in LAYERS yet: say what may import it")


class TestImports:
    def test_point_one_way(self) -> None:
        against = [
            f"{'.'.join(names(path))} imports {'.'.join(target)}"
            for path in modules()
            for target in imports(path)
            if target[0] == PACKAGE.name and layer(target) > layer(names(path))
        ]
        assert not against

    @pytest.mark.parametrize("part", PURE)
    def test_pure_modules_know_no_django_clock_thread_or_socket(self, part: str) -> None:
        files = [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]
        used = {(path.name, target[0]) for path in files if path.exists() for target in imports(path)}
        assert not {(name, module) for name, module in used if module in IMPURE}

    def test_only_the_codec_that_is_asked_for_by_name_knows_pickle(self) -> None:
        knowing = [path.relative_to(PACKAGE).as_posix() for path in modules() if ("pickle",) in set(imports(path))]
        assert set(knowing) <= {"codecs/pickle.py"}
