"""Play every script again and write down what happens; the difference is for review."""

from pathlib import Path

from .stage import perform

for path in sorted(Path(__file__).parent.glob("*.txt")):
    path.write_text(perform(path.read_text()))
