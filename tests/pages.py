"""A page as its reader's browser takes it apart: tags, texts, ids, rows of tables; and that it needs nothing else."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags of a page with their attributes, its texts, and the rows of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.table_rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.table_rows.append([])
        if tag in ("td", "th"):
            self.table_rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if {"td", "th"} & {*self.open[-2:]}:
            self.table_rows[-1][-1] += data
        self.texts.append(data.strip())

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in names]

    def count(self, tag: str) -> int:
        return [each for each, _ in self.tags].count(tag)


def require_self_contained(page: Page) -> None:
    """Whole tags, no script, nothing fetched, every id once, every reference to one that is there."""
    assert page.open == []
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert all(value.startswith("#") for value in page.values("src", "href", "xlink:href"))
    assert re.findall(r"url\((?!#)|@import", page.text) == []
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 0
    named = {value[1:] for value in page.values("href", "xlink:href")} | set(re.findall(r"url\(#(.*?)\)", page.text))
    assert named <= set(ids)
