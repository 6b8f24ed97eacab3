"""Processes of the product die under an open page: a person sees it calmly told and loses nothing.

`start_reef` stands before `page` in each test, so that the page is closed before the product stops.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

from chat_page import LONG, ChatPage, Console, grows_only, squeezed
from playwright.sync_api import Page, expect


def test_page_tells_that_the_device_restarted(
    start_reef: Callable[..., Any], page: Page, open_chat_of: Callable[[Page, str], ChatPage]
) -> None:
    """kill -9 of the worker in mid-reply: the partial text goes, the page says why, the reply comes whole."""
    reef = start_reef()
    chat = open_chat_of(page, reef.url).open()
    chat.say(LONG)
    chat.wait_writing()
    pools = reef.get("/api/v1/system/status")["pools"]
    os.kill(next(pool["devices"][0]["pid"] for pool in pools if pool["name"] == "chat"), signal.SIGKILL)
    expect(chat.replies.last).to_contain_text("The device restarted; the answer")
    chat.wait_told(1)
    stored = chat.history()["messages"][-1]
    assert stored["state"] == "complete"
    texts = [squeezed(text) for text in chat.streamed()]
    assert texts[-1] == squeezed(stored["content"])
    breaks = [place for place, text in enumerate(texts[1:], start=1) if not text.startswith(texts[place - 1])]
    assert len(breaks) == 1, "the text began again more than once, or never"
    assert grows_only(texts[breaks[0] :])


def test_page_outlives_the_web_process(
    start_reef: Callable[..., Any], page: Page, open_chat_of: Callable[[Page, str], ChatPage], console: Console
) -> None:
    """kill -9 of the web process in mid-reply: the page tells of it, comes back by itself and shows the whole reply."""
    console.allow("WebSocket connection|Failed to load resource|ERR_CONNECTION")
    reef = start_reef()
    chat = open_chat_of(page, reef.url).open()
    chat.say(LONG)
    chat.wait_writing()
    chat.message.fill("typed while away")
    os.kill(reef.processes.pids()["web"], signal.SIGKILL)
    chat.wait_told(1)
    expect(page.locator("#banner")).to_be_hidden()
    expect(chat.message).to_have_value("typed while away")
    expect(chat.replies.last.locator(".words")).not_to_have_class(re.compile("plain"))
    texts = chat.streamed()
    assert grows_only(texts)
    assert squeezed(chat.history()["messages"][-1]["content"]).startswith(squeezed(texts[-1]))
