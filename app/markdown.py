"""Markdown to HTML that is safe to put into a page: rendered on the server, then reduced to an allow-list."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

import nh3
from markdown_it import MarkdownIt

CACHE_CHARS_MAX = 4_000_000
"""Texts and their HTML that are kept, together."""
NESTING_MAX = 20
YIELD_EVERY = 8
"""Messages rendered before other greenlets get their turn."""

TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "ol": {"start"}, "td": {"style"}, "th": {"style"}}
SCHEMES = {"http", "https", "mailto"}
LANGUAGE = "language-"


class Renderer:
    """Renders and remembers. Safe to share."""

    def __init__(self) -> None:
        # no raw HTML, no pictures: a reply must not make the reader's browser fetch anything
        self._markdown = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": NESTING_MAX})
        self._markdown.enable(["table", "strikethrough"]).disable("image")
        self._cleaner = nh3.Cleaner(
            tags=TAGS,
            attributes=ATTRIBUTES,
            url_schemes=SCHEMES,
            link_rel="noopener noreferrer nofollow",
            attribute_filter=_keep_attribute,
        )
        self._known: OrderedDict[str, str] = OrderedDict()
        self._chars = 0
        self._lock = threading.Lock()

    def html(self, text: str) -> str:
        """The text as safe HTML."""
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known
        html = self._cleaner.clean(self._markdown.render(text))
        self._remember(text, html)
        return html

    def many(self, texts: Iterable[str]) -> list[str]:
        """Each text as safe HTML; a long history does not hold up the other requests."""
        rendered = []
        for count, text in enumerate(texts, start=1):
            rendered.append(self.html(text))
            if count % YIELD_EVERY == 0:
                time.sleep(0)
        return rendered

    def _remember(self, text: str, html: str) -> None:
        with self._lock:
            if text in self._known:
                return
            self._known[text] = html
            self._chars += len(text) + len(html)
            while self._chars > CACHE_CHARS_MAX:
                old_text, old_html = self._known.popitem(last=False)
                self._chars -= len(old_text) + len(old_html)


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    if tag == "code":
        return value if value.startswith(LANGUAGE) and value[len(LANGUAGE) :].isalnum() else None
    if attribute == "style":
        return value if value in ("text-align:left", "text-align:right", "text-align:center") else None
    return value
