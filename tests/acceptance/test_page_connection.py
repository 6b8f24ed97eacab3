"""The page's connection breaks, or no WebSocket gets through: the reply goes on all the same."""

from __future__ import annotations

import re
from collections.abc import Callable

from chat_page import LONG, ChatPage, Console, Line, grows_only, squeezed
from playwright.sync_api import Page, expect


def test_page_resumes_after_a_lost_connection(page: Page, open_chat: Callable[[Page], ChatPage]) -> None:
    """A socket cut in mid-reply is opened again and the reply goes on where it was: nothing lost, nothing doubled."""
    line = Line(page)
    chat = open_chat(page).open()
    chat.say(LONG)
    chat.wait_writing()
    line.cut()
    chat.wait_told(1)
    texts = chat.streamed()
    assert grows_only(texts)
    assert squeezed(texts[-1]) == squeezed(chat.history()["messages"][-1]["content"])
    assert line.sockets, "the page opened no new socket"


def test_page_shows_a_reply_that_ended_while_it_was_away(
    page: Page, open_chat: Callable[[Page], ChatPage], console: Console
) -> None:
    """A page that was cut off until the reply was finished shows it whole and rendered when the line is back."""
    console.allow("Failed to load resource")
    line = Line(page)
    chat = open_chat(page).open()
    chat.say(LONG)
    chat.wait_writing()
    page.route("**/healthz", lambda route: route.abort())
    line.closed = True
    line.cut()
    expect(page.locator("#banner")).to_contain_text("Connection lost")
    run = chat.replies.last.get_attribute("data-run-id")
    told = page.request.get(f"{chat.url}/api/v1/runs/{run}/events").text()  # ends with the run
    assert "event: done" in told
    expect(chat.writing).to_have_count(1)
    line.closed = False
    chat.wait_told(1)
    words = chat.replies.last.locator(".words")
    assert words.evaluate("(words) => words.innerHTML.trim().length") > 0
    expect(words).not_to_have_class(re.compile("plain"))
    assert len(chat.history()["messages"][-1]["content"]) >= len(chat.streamed()[-1])


def test_page_without_websockets_uses_server_sent_events(page: Page, open_chat: Callable[[Page], ChatPage]) -> None:
    """Where no WebSocket gets through, replies arrive as server-sent events."""
    line = Line(page)
    line.closed = True
    with page.expect_request("**/healthz"):
        chat = open_chat(page).open()
    with page.expect_request(re.compile(r"/api/v1/runs/[^/]+/events")):
        chat.say(LONG)
    chat.wait_told(1)
    texts = chat.streamed()
    assert len(texts) > 1
    assert grows_only(texts)
    assert squeezed(texts[-1]) == squeezed(chat.history()["messages"][-1]["content"])


def test_page_lost_connection_is_told_calmly(
    page: Page, open_chat: Callable[[Page], ChatPage], console: Console
) -> None:
    """While neither socket nor HTTP gets through, a banner says so; it goes when the line is back."""
    console.allow("Failed to load resource")
    line = Line(page)
    chat = open_chat(page).open()
    page.route("**/healthz", lambda route: route.abort())
    line.closed = True
    line.cut()
    banner = page.locator("#banner")
    expect(banner).to_contain_text("Connection lost, trying again…")
    line.closed = False
    expect(banner).to_be_hidden()
    page.unroute("**/healthz")
    assert chat.ask("Are you back?")
