"""A page as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "input"}
REQUESTED = {"src", "href", "xlink:href", "srcset", "data"}


class Page(HTMLParser):
    """Ids, words, pictures, and whether every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.words, self.open, self.pictures = set(), [], [], 0
        self.all_ids, self.tags, self.addresses = [], [], []  # addresses: what a browser would request
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        self.pictures += tag == "img"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.all_ids += [value for name, value in attrs if name == "id"]
        self.ids = set(self.all_ids)
        self.addresses += [value for name, value in attrs if name in REQUESTED]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
