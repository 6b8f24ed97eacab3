"""The page's connection breaks, or the reef takes no message: replies go on, and nothing written is lost."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from chat_page import LONG, ChatPage, Console, Line, grows_only, squeezed
from playwright.sync_api import Page, Route, expect


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


TEXT = "precious words"
AGE = """() => {
  const kept = JSON.parse(localStorage.getItem("reef.unsent"));
  localStorage.setItem("reef.unsent", JSON.stringify(kept.map((one) => ({ ...one, at: one.at - 3_600_000 }))));
}"""


class Door:
    """Where messages are handed in, in the hands of a test: shut, it answers 429."""

    def __init__(self, chat: ChatPage) -> None:
        self.shut = True
        self.keys: list[str | None] = []
        chat.page.route("**/api/v1/chat", self._asked)

    def _asked(self, route: Route) -> None:
        self.keys.append(route.request.headers.get("idempotency-key"))
        if not self.shut:
            route.continue_()
            return
        body = {"title": "Busy", "status": 429, "detail": "Too many wait.", "retry_after_s": 60}
        route.fulfill(status=429, json=body, content_type="application/problem+json")


@pytest.fixture
def door(chat: ChatPage, console: Console) -> Door:
    """A full queue, and a message that waits before it."""
    console.allow("429")
    door = Door(chat)
    chat.say(TEXT)
    expect(chat.asked.last).to_contain_text("the queue is full")
    return door


def taken(chat: ChatPage) -> None:
    """Until the reef has the message."""
    expect(chat.asked).to_have_attribute("data-message-id", re.compile("."))


def said(chat: ChatPage) -> list[str]:
    """What the person said in the chat shown, as stored."""
    return [message["content"] for message in chat.history()["messages"] if message["role"] == "user"]


def test_page_message_waits_through_a_reload(chat: ChatPage, door: Door) -> None:
    """A page loaded anew sends the waiting message, with its key, once."""
    door.shut = False
    chat.page.reload()
    taken(chat)
    assert door.keys[0] == door.keys[1] is not None
    assert said(chat) == [TEXT]
    assert chat.page.evaluate("localStorage.getItem('reef.unsent')") == "[]"


def test_page_message_waits_while_another_chat_is_shown(chat: ChatPage, door: Door) -> None:
    """No second message takes its place; it is marked in the list, stands in its chat again, and goes out on demand."""
    chat.say("another thought")
    expect(chat.page.locator("#composer-note")).to_contain_text("send it or take it back first")
    expect(chat.message).to_have_value("another thought")
    place = chat.page.url
    chat.page.get_by_role("button", name="New chat").click()
    unsent = chat.page.locator(".session-unsent")
    expect(unsent).to_have_count(1)
    chat.page.locator(".session-row", has=unsent).click()
    expect(chat.page).to_have_url(place)
    expect(chat.asked.last).to_contain_text(TEXT)
    door.shut = False
    chat.page.get_by_role("button", name="Try now").click()
    taken(chat)
    assert said(chat) == [TEXT]
    expect(chat.page.locator(".session-unsent")).to_have_count(0)


def test_page_message_of_long_ago_is_offered(chat: ChatPage, door: Door) -> None:
    """Nobody is surprised by a message of yesterday: it can be sent, or taken back with the chat made for it."""
    session = chat.session_id
    chat.page.evaluate(AGE)
    door.shut = False
    chat.page.reload()
    expect(chat.asked.last).to_contain_text("It was left here when this page was closed.")
    with chat.page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted:
        chat.page.get_by_role("button", name="Take back").click()
    assert deleted.value.url.endswith(session)
    expect(chat.message).to_have_value(TEXT)
    expect(chat.page).to_have_url(re.compile(r"/$"))
    assert len(door.keys) == 1


def test_page_message_of_a_new_chat_waits_for_its_session(chat: ChatPage, console: Console) -> None:
    """Where not even a chat could be made, the message stands in the new chat after a reload and goes out."""
    console.allow("503")
    body = {"title": "Down", "status": 503, "detail": "The database does not answer.", "retry_after_s": 60}
    chat.page.route("**/api/v1/sessions", lambda route: route.fulfill(status=503, json=body))
    chat.say(TEXT)
    expect(chat.asked.last).to_contain_text("The database does not answer.")
    chat.page.unroute("**/api/v1/sessions")
    chat.page.reload()
    taken(chat)
    assert said(chat) == [TEXT]
