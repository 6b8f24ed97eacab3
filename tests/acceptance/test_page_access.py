"""The pages serve keyboards, screen readers, phones, both themes, and a strict policy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from chat_page import PHONE, ChatPage, Console, assert_sound
from playwright.sync_api import BrowserContext, Page, expect


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_states_are_legible_and_named(
    scheme: str, new_context: Callable[..., BrowserContext], open_chat: Callable[[Page], ChatPage]
) -> None:
    """Welcome, conversation, dialogs: controls have names, headings are in order, contrast is AA."""
    page = new_context(color_scheme=scheme).new_page()
    chat = open_chat(page).open()
    expect(page.locator(".card").first).to_be_visible()
    assert_sound(page)
    chat.ask("Hello")
    assert_sound(page)
    page.get_by_role("button", name="New persona").click()
    expect(page.locator("#persona-dialog")).to_be_visible()
    assert_sound(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    assert_sound(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_login_is_legible_and_named(scheme: str, new_context: Callable[..., BrowserContext], reef: Any) -> None:
    """The login page holds the same checks."""
    page = new_context(color_scheme=scheme).new_page()
    page.goto(f"{reef.url}/login")
    expect(page.get_by_label("API key")).to_be_focused()
    assert_sound(page)


def test_page_works_by_keyboard_alone(chat: ChatPage) -> None:
    """Without a mouse: pick a persona, chat, stop, search, open a chat, read the shortcuts, come back."""
    page = chat.page
    keys = page.keyboard
    skip = page.get_by_role("link", name="Skip to the message field")
    skip.focus()
    expect(skip).to_be_in_viewport()
    keys.press("Enter")
    expect(chat.message).to_be_focused()
    page.locator(".persona-pick").first.focus()
    keys.press("ArrowDown")
    expect(page.locator(".persona-pick").nth(1)).to_be_focused()
    keys.press("End")
    expect(page.locator(".persona-pick").last).to_be_focused()
    keys.press("Home")
    keys.press("Enter")
    expect(chat.message).to_be_focused()
    keys.type("The octopus garden by keyboard")
    keys.press("Enter")
    chat.wait_told(1)
    place = page.url
    page.locator("#thread-scroll").focus()
    keys.press("n")
    expect(page).to_have_url(re.compile(r"/$"))
    page.locator("#thread-scroll").focus()
    keys.press("/")
    search = page.get_by_role("searchbox", name="Search chats")
    expect(search).to_be_focused()
    keys.type("octopus garden by keyboard")
    expect(page.locator(".session-row")).to_have_count(1)
    keys.press("ArrowDown")
    expect(page.locator(".session-row").first).to_be_focused()
    keys.press("Enter")
    expect(page).to_have_url(place)
    expect(chat.asked).to_have_count(1)
    page.locator("#thread-scroll").focus()
    keys.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_be_visible()
    keys.press("Escape")
    expect(dialog).to_be_hidden()
    keys.press("m")
    expect(chat.message).to_be_focused()


def test_page_single_letter_shortcuts_can_be_switched_off(chat: ChatPage) -> None:
    """Who speaks to the computer can switch single letters off, and the choice is kept."""
    page = chat.page
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Use the single-letter shortcuts").uncheck()
    page.keyboard.press("Escape")
    chat.open()
    page.locator("#thread-scroll").focus()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search chats")).not_to_be_focused()


def test_page_focus_is_visible(chat: ChatPage) -> None:
    """Whatever has the keyboard's focus shows it."""
    page = chat.page
    page.locator(".brand").first.focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("pageChecks.focusShown()") == ""


def test_page_speaks_in_sentences_not_tokens(chat: ChatPage) -> None:
    """The live region hears that the persona reads, and the reply once, whole; the conversation itself is not live."""
    page = chat.page
    page.evaluate(
        """() => {
          window.said = [];
          const region = document.getElementById("announcer");
          new MutationObserver(() => region.textContent && window.said.push(region.textContent))
            .observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )
    told = chat.ask("Hello")
    page.wait_for_function("(start) => window.said.some((words) => words.includes(start))", arg=told[:20])
    said = page.evaluate("window.said")
    assert len(said) <= 3, said
    assert any("is reading" in words for words in said)
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    assert page.locator("#thread[aria-live], #thread-scroll[aria-live], [role=log]").count() == 0


def test_page_phone_has_a_drawer(
    new_context: Callable[..., BrowserContext], open_chat: Callable[[Page], ChatPage]
) -> None:
    """At phone width the lists are a drawer; nothing is wider than the screen, targets can be touched."""
    page = new_context(**PHONE).new_page()
    chat = open_chat(page).open()
    drawer = page.get_by_role("navigation", name="Personas and chats")
    opener = page.get_by_role("button", name="Open personas and chats")
    expect(drawer).to_be_hidden()
    chat.ask("Hello from a phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    opener.click()
    expect(drawer).to_be_visible()
    expect(page.get_by_role("button", name="Close the list")).to_be_focused()
    assert page.evaluate("pageChecks.smallTargets()") == []
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(opener).to_be_focused()
    opener.click()
    page.locator(".session-row").first.click()
    expect(drawer).to_be_hidden()
    expect(chat.asked.first).to_be_visible()


def test_page_short_screen_scrolls_its_lists_as_one(chat: ChatPage) -> None:
    """On a phone on its side and at 200 % zoom nothing lies over anything else, and the last chat can be reached."""
    page = chat.page
    page.set_viewport_size({"width": 844, "height": 390})
    assert_lists_apart(page)
    page.set_viewport_size({"width": 640, "height": 400})
    page.get_by_role("button", name="Open personas and chats").click()
    assert_lists_apart(page)


def assert_lists_apart(page: Page) -> None:
    """The parts of the sidebar stand below each other, and its end can be scrolled to."""
    boxes = [
        page.locator(place).bounding_box() for place in (".personas", "#search", "#session-list", ".sidebar-pages")
    ]
    edges = [(box["y"], box["y"] + box["height"]) for box in boxes if box is not None]
    assert len(edges) == 4
    assert all(above[1] <= below[0] for above, below in itertools.pairwise(edges)), edges
    sessions = page.locator("#session-list")
    expect(sessions.locator(".row-waiting")).to_have_count(0)
    sessions.evaluate("list => list.lastElementChild.scrollIntoView()")
    expect(sessions.locator("> *").last).to_be_in_viewport()


def test_page_theme_can_be_chosen_and_is_kept(chat: ChatPage) -> None:
    """The toggle goes through system, light and dark; the server writes the choice into the next page."""
    page = chat.page
    ground = "getComputedStyle(document.body).backgroundColor"
    toggle = page.get_by_role("button", name=re.compile("^Theme"))
    toggle.click()
    light = page.evaluate(ground)
    toggle.click()
    expect(toggle).to_have_attribute("aria-label", re.compile("Theme: dark"))
    dark = page.evaluate(ground)
    assert light != dark
    chat.open()
    assert page.evaluate(ground) == dark
    assert 'data-theme="dark"' in page.request.get(chat.url).text()


def test_page_reduced_motion_stands_still(
    new_context: Callable[..., BrowserContext], open_chat: Callable[[Page], ChatPage]
) -> None:
    """Who asks the system for less motion gets none."""
    page = new_context(reduced_motion="reduce").new_page()
    chat = open_chat(page).open()
    chat.say("Tell me a long story about the sea, with many words.")
    chat.wait_writing()
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("path", ["/", "/chat/any", "/reef", "/login"])
def test_page_policy_is_strict(path: str, page: Page, reef: Any) -> None:
    """Pages allow scripts and styles from this server only, hold none inline, and are not to be framed."""
    response = page.request.get(reef.url + path)
    assert response.ok
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    html = response.text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", html) == []
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", html) == []


def test_page_asks_nobody_but_the_reef(page: Page, open_chat: Callable[[Page], ChatPage], reef: Any) -> None:
    """A chat from beginning to end makes no request to any other host."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url.replace("ws://", "http://")))
    open_chat(page).open().ask("Hello")
    assert asked
    assert [url for url in asked if not url.startswith(reef.url)] == []


def test_page_login_refuses_a_wrong_key(page: Page, reef: Any, console: Console) -> None:
    """A wrong key is refused in words, and leads nowhere else."""
    console.allow("403")
    page.goto(f"{reef.url}/login?next=//evil.example/")
    page.get_by_label("API key").fill("reef_wrong")
    page.get_by_role("button", name="Open the reef").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not valid")
    expect(page.locator("input[name=next]")).to_have_value("/")
    assert not [cookie for cookie in page.context.cookies() if cookie.get("name") == "reef_key"]
