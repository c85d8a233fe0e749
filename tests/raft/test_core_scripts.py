"""The protocol's stories, played as they are written down."""

from pathlib import Path

import pytest

from .scripts.stage import perform

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_story_is_played_as_written(path: Path) -> None:
    script = path.read_text()
    assert perform(script) == script
