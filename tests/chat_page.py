"""The chat page as the tests speak of it, and what they need around a page: its console, its socket."""

from __future__ import annotations

import itertools
import re
from typing import Any

from playwright.sync_api import Page, WebSocketRoute, expect

WAIT_MS = 20_000
"""Longest wait for anything a page should show."""

LONG = "Tell me at length how a coral reef grows, step by step, and do not be brief. " * 2
"""A message whose answer takes a while."""
ENDLESS = "Tell me about the sea. " * 40
"""A message whose answer goes on until it is stopped: ten seconds, however slow the machine is."""

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def assert_sound(page: Page) -> None:
    """The checks that hold for every page in every state: names, order of headings, contrast, unique ids."""
    for check in ("nameless", "lowContrast", "doubledIds"):
        found = page.evaluate(f"pageChecks.{check}()")
        assert found == [], (check, found)
    levels = page.evaluate("pageChecks.headingLevels()")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels


def squeezed(text: str) -> str:
    """Text without white space: pages break lines where they like."""
    return "".join(text.split())


def grows_only(texts: list[str]) -> bool:
    """Each state of a reply begins with the one before."""
    plain = [squeezed(text) for text in texts]
    return all(after.startswith(before) for before, after in itertools.pairwise(plain))


class Console:
    """Errors that pages logged. A test names those it causes on purpose."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.allowed: list[str] = []

    def allow(self, pattern: str) -> None:
        """An error that matches is part of the test."""
        self.allowed.append(pattern)

    def watch(self, page: Page) -> None:
        """Collect from this page too."""
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def unexpected(self) -> list[str]:
        """What was logged and not announced."""
        return [error for error in self.errors if not any(re.search(pattern, error) for pattern in self.allowed)]


class ChatPage:
    """The chat page, in the words of a person who uses it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.message = page.locator("#composer-input")
        self.stop = page.get_by_role("button", name="Stop", exact=True)
        self.turns = page.locator(".turn")
        self.replies = page.locator(".turn.assistant")
        self.asked = page.locator(".turn.user")
        self.writing = page.locator(".words.writing")

    def open(self, path: str = "/") -> ChatPage:
        """Open it and wait until it listens."""
        self.page.goto(self.url + path)
        self.page.wait_for_selector("html[data-ready]")
        return self

    def new_chat(self, persona: str) -> None:
        """Begin a chat with a persona by its card."""
        self.page.get_by_role("button", name="New chat").click()
        self.page.locator(".card", has_text=persona).first.click()

    def say(self, text: str) -> None:
        """Write and send."""
        self.message.fill(text)
        self.message.press("Enter")

    def wait_writing(self) -> None:
        """Until the first words of a reply stand there."""
        expect(self.writing.last).to_have_text(re.compile(r"\S"))

    def wait_told(self, count: int) -> None:
        """Until so many messages of the person have been answered and the last answer is rendered."""
        self.page.wait_for_function(
            """(count) => {
                 const turns = [...document.querySelectorAll(".turn")];
                 const last = turns.at(-1);
                 return document.querySelectorAll(".turn.user").length === count
                   && last?.matches(".assistant[data-message-id]")
                   && last.querySelector(".words:not(.plain)")
                   && document.getElementById("stop").hidden;
               }""",
            arg=count,
        )

    def ask(self, text: str) -> str:
        """Say something and wait for the whole answer. Gives its text as stored."""
        count = self.asked.count() + 1
        self.say(text)
        self.wait_told(count)
        return str(self.history()["messages"][-1]["content"])

    @property
    def session_id(self) -> str:
        """Of the chat shown, from the address."""
        return self.page.url.rsplit("/chat/", 1)[1]

    def get(self, path: str) -> Any:
        """What the API answers."""
        response = self.page.request.get(self.url + path)
        assert response.ok, (response.status, response.text())
        return response.json()

    def history(self) -> Any:
        """The chat as stored."""
        return self.get(f"/api/v1/chat/history/{self.session_id}")

    def streamed(self) -> list[str]:
        """Every text of the replies in the making that stood on the page, in order, since it was loaded."""
        return list(self.page.evaluate("window.streamed"))

    def script_url(self, module: str) -> str:
        """Address of one of the page's own modules."""
        source = self.page.locator("script[type=module]").get_attribute("src")
        assert source is not None
        return source.replace("main.js", module)


class Line:
    """The page's WebSocket, in the hands of a test: it passes everything on until the test cuts it."""

    def __init__(self, page: Page) -> None:
        self.sockets: list[WebSocketRoute] = []
        self.closed = False
        page.route_web_socket("**/ws", self._opened)

    def _opened(self, socket: WebSocketRoute) -> None:
        if self.closed:
            socket.close(code=1001)
            return
        self.sockets.append(socket)
        socket.connect_to_server()

    def cut(self) -> None:
        """Close what is open."""
        while self.sockets:
            self.sockets.pop().close(code=1001)
