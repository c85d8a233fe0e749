"""The articles page of the demo: values of two processes on one page, sorted by the database."""

from __future__ import annotations

import re

from example_project.demo import Demo, Visitor
from tests.processes import wait_until

TITLE = re.compile(r'<th scope="row">(.*?)</th>')
ROW = r'<th scope="row">{}</th>\s*<td><dref-value[^>]*>(\d+)</dref-value></td>'


def test_articles_show_what_another_process_counted_and_are_sorted_by_the_mirrored_score() -> None:
    with Demo("redis") as demo:
        here, there = (Visitor(f"{address}articles/") for address in demo.addresses)
        titles = TITLE.findall(here.load())
        assert len(titles) == 100
        for _ in range(3):
            here.post("42/read/")
        here.post("42/like/")
        chosen = titles[41]
        wait_until(lambda: TITLE.findall(there.load())[0] == chosen, "the liked article on top", 30)
        (views,) = re.findall(ROW.format(chosen), there.load())
        assert views == "3"
