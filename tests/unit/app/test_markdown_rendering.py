"""Markdown of a model or a user becomes HTML that can do nothing but look."""

from __future__ import annotations

import pytest

from app.markdown import CACHE_CHARS_MAX, Renderer

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/pixel.png)",
    "[x](javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "<iframe src=//evil.example></iframe>",
    "<a href=x onclick=alert(1)>x</a>",
    "[x](<javascript:alert(1)>)",
    "[x](java\nscript:alert(1))",
    "<svg/onload=alert(1)>",
    '```"><script>alert(1)</script>\nx\n```',
    '[a](https://x.example "t\\" onmouseover=alert(1) ")',
    "<style>*{display:none}</style>",
    "<form action=//evil.example><input>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_active_comes_through(text: str) -> None:
    """No script, handler, picture, frame, form or style reaches the page."""
    html = Renderer().html(text).lower()
    tags = [part.split(">")[0] for part in html.split("<")[1:]]
    assert not any(tag.startswith(("script", "img", "iframe", "svg", "style", "form", "input")) for tag in tags)
    assert not any(" on" in tag.split('"')[0] for tag in tags), html
    assert not any('href="javascript' in tag or 'href="data' in tag or 'href="vbscript' in tag for tag in tags)


def test_ordinary_markdown_is_rendered() -> None:
    """Emphasis, code, lists, tables, strikethrough and links look as written."""
    html = Renderer().html("**b** `c` ~~s~~\n\n- one\n\n|a|b|\n|:-|-:|\n|1|2|\n\n```python\nx = 1\n```\n")
    for expected in ("<strong>b</strong>", "<code>c</code>", "<s>s</s>", "<li>one</li>", "<table>", "language-python"):
        assert expected in html
    assert 'style="text-align:right"' in html


def test_links_give_nothing_away() -> None:
    """A link opens without an opener and without telling where it was."""
    html = Renderer().html("[x](https://example.org/)")
    assert 'href="https://example.org/"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_the_cache_is_bounded() -> None:
    """What is remembered never exceeds its limit, and the newest stays."""
    renderer = Renderer()
    text = "word " * 20_000
    for n in range(60):
        renderer.html(f"{n} {text}")
    assert renderer._chars <= CACHE_CHARS_MAX
    assert sum(len(k) + len(v) for k, v in renderer._known.items()) == renderer._chars
    assert f"59 {text}" in renderer._known


def test_deep_nesting_does_not_hurt() -> None:
    """A tower of quotes is cut off instead of blowing the stack."""
    assert "<blockquote>" in Renderer().html(">" * 5_000 + " x")
    assert Renderer().html("[" * 20_000)
