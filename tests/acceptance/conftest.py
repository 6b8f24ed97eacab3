"""A browser on the real product: headless Chromium, a profile for each test.

A test fails when its page logs an error that it did not say it would cause.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_page import WAIT_MS, ChatPage, Console
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
PAGE_CHECKS = Path(__file__).parent / "page_checks.js"


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
def open_chat_of() -> Callable[[Page, str], ChatPage]:
    """Makes the chat page of a product that the test started itself."""
    return ChatPage


@pytest.fixture
def answer_status(reef: Any) -> Callable[[Page, dict[str, Any]], None]:
    """Lets a page see the reef's real status with some fields replaced."""

    def install(page: Page, fields: dict[str, Any]) -> None:
        def answer(route: Route) -> None:
            response = route.fetch()
            route.fulfill(response=response, json=response.json() | fields)

        page.route("**/api/v1/system/status", answer)

    return install
