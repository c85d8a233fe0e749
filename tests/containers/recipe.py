"""What compose.yaml, Dockerfile and .dockerignore say, as far as the tests ask."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICE = "dref-example"


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


def service(name: str = SERVICE) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def environment(name: str = SERVICE) -> dict[str, str]:
    """Of a container, from the image and from the service, with the defaults of `${...}`."""
    given = {**dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV")))), **service(name)["environment"]}
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for key, value in given.items()}


def instructions(kind: str) -> list[str]:
    """The arguments of each instruction of a kind, in order, one line each."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    return [line.removeprefix(f"{kind} ") for line in text.splitlines() if line.startswith(f"{kind} ")]


def command(name: str = SERVICE) -> list[str]:
    """What a container runs."""
    given: list[str] = service(name).get("command") or json.loads(instructions("CMD")[-1])
    return given


def copied() -> list[str]:
    """The paths that the image is made of, from the top of the project."""
    return [path for copy in instructions("COPY") for path in shlex.split(copy)[:-1]]
