"""Several processes with several threads each at work on the same refs, on one back end.

`python -m tests.crowd` is one of the processes: it reads one JSON line that says what to do, answers "ready", waits for
"go", does it on all its threads at once, and ends. The settings come from the environment (see `Crowd`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from dref_django import Counter, DRef
from dref_django.conf import DEFAULT_ALIAS
from tests.linearizability import Recorder
from tests.servers import janitor

PATIENCE: Final = 50.0
SETTINGS: Final = "tests.crowd_settings"
ROOT: Final = Path(__file__).parent.parent


def on_threads(count: int, job: Callable[[int], object]) -> None:
    """Runs job(0), job(1) ... at once."""
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(PATIENCE)
        job(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run, number) for number in range(count)]:
            done.result()


def update(name: str, times: int) -> None:
    """Adds one, that often, by `update`."""
    ref = DRef(name, 0)
    for _ in range(times):
        ref.update(lambda value: value + 1)


def play(recorder: Recorder, client: str, names: list[str], steps: int, seed: str, using: str = DEFAULT_ALIAS) -> None:
    """Random operations on refs that hold integers or nothing, recorded for the checker."""
    dice = random.Random(seed)
    for _ in range(steps):
        name = dice.choice(names)
        ref, counter = DRef[Any](name, None, using=using), Counter(name, using=using)
        number, other = dice.randrange(5), dice.randrange(5)
        choices: list[tuple[str, tuple[Any, ...], Callable[[], Any]]] = [
            ("read", (), ref.get),
            ("read", (), ref.get),
            ("write", (number,), partial(ref.set, number)),
            ("cas", (number, other), partial(ref.compare_and_set, number, other)),
            ("cas", (None, other), partial(ref.compare_and_set, None, other)),
            ("add", (number,), partial(counter.increment, number)),
            ("add", (number,), partial(ref.update, partial(_plus, number))),
            ("delete", (), ref.delete),
        ]
        op, args, do = dice.choice(choices)
        with recorder.call(client, op, args, key=name) as call:
            call.result = do()


def _plus(amount: int, value: int | None) -> int:
    return (value or 0) + amount


def play_here(path: Path, name: str, names: list[str], threads: int, steps: int, seed: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        recorder = Recorder(stream)
        on_threads(threads, lambda number: play(recorder, f"{name}.{number}", names, steps, f"{seed}.{name}.{number}"))


class Crowd:
    """Processes that do the same at once."""

    def __init__(self, setting: dict[str, Any], environment: dict[str, str]) -> None:
        self._environment = {
            **os.environ,
            **environment,
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "DREF_CROWD_BACKEND": json.dumps(setting),
        }

    def run(self, jobs: list[dict[str, Any]]) -> None:
        """Each job on a process of its own; returns when all have ended well."""
        processes = [self._start(job) for job in jobs]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n", process.communicate()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            said = [process.communicate(timeout=PATIENCE) for process in processes]
        finally:
            for process in processes:
                with process:
                    process.kill()
                janitor().forget_process(process.pid)
        for process, (output, errors) in zip(processes, said, strict=True):
            assert (process.returncode, errors) == (0, ""), f"{output}\n{errors}"

    def _start(self, job: dict[str, Any]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crowd"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        janitor().watch_process(process.pid)
        assert process.stdin is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return process


def main() -> None:
    import django

    django.setup()
    job = json.loads(sys.stdin.readline())
    Counter("warm").get()
    print("ready", flush=True)
    sys.stdin.readline()
    if job["do"] == "update":
        on_threads(job["threads"], lambda _: update(job["name"], job["times"]))
    else:
        play_here(Path(job["path"]), job["client"], job["names"], job["threads"], job["steps"], job["seed"])


if __name__ == "__main__":
    main()
