"""A browser on the real product: headless Chromium, and the chat page as the tests speak of it.

A test fails when its page logs an error that it did not say it would cause.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 20_000
"""Longest wait for anything a page should show."""

PAGE_CHECKS = Path(__file__).parent / "page_checks.js"


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


def chromium() -> str | None:
    """The browser: REEF_CHROMIUM, Debian's, or None for the one that playwright keeps."""
    return os.environ.get("REEF_CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser process for the tests of a module; it ends with them, since playwright's loop blocks asyncio's."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=WAIT_MS)
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def console() -> Iterator[Console]:
    """What the pages of this test logged; nothing unexpected may stand there at its end."""
    console = Console()
    yield console
    assert not console.unexpected()


@pytest.fixture
def new_context(browser: Browser, console: Console) -> Iterator[Callable[..., BrowserContext]]:
    """Another browser profile: its options are playwright's."""
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(path=PAGE_CHECKS)
        context.on("page", console.watch)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """A desktop page in a profile of its own."""
    return new_context().new_page()


@pytest.fixture
def chat(page: Page, reef: Any) -> ChatPage:
    """The chat page, open."""
    return ChatPage(page, reef.url).open()


@pytest.fixture
def open_chat(reef: Any) -> Callable[[Page], ChatPage]:
    """Makes the chat page out of a page of the test's own; the test opens it."""
    return lambda page: ChatPage(page, reef.url)


@pytest.fixture
def answer_status(reef: Any) -> Callable[[Page, dict[str, Any]], None]:
    """Lets a page see the reef's real status with some fields replaced."""

    def install(page: Page, fields: dict[str, Any]) -> None:
        def answer(route: Route) -> None:
            response = route.fetch()
            route.fulfill(response=response, json=response.json() | fields)

        page.route("**/api/v1/system/status", answer)

    return install
