"""dref.d.ts: a project's TypeScript compiles against it, and it names what the module exports."""

import re
import subprocess
from pathlib import Path
from typing import Final

from tests.browser.module import Module

HERE: Final = Path(__file__).resolve().parent
TYPES: Final = HERE.parents[1] / "dref_django" / "static" / "dref_django" / "dref.d.ts"
OPTIONS: Final = "--strict --noEmit --target es2022 --module esnext --moduleResolution bundler --lib es2022,dom"
TIMEOUT: Final = 120  # seconds


def test_typescript_accepts_what_is_right_and_refuses_what_is_wrong() -> None:
    compiler = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    assert compiler.exists(), "the compiler comes with: make browser"
    command = ["node", str(compiler), *OPTIONS.split(), str(HERE / "types.ts")]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_name_what_the_module_exports(module: Module) -> None:
    declared = re.findall(r"^export (?:abstract )?(?:const|function|class) (\w+)", TYPES.read_text(), re.MULTILINE)
    assert sorted(declared) == sorted(module.run("Object.keys(dref)"))
