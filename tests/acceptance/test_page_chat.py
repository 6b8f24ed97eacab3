"""A person chats in a real browser with the real product."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from chat_page import ENDLESS, LONG, ChatPage, Console, grows_only, squeezed
from playwright.sync_api import BrowserContext, Page, Route, expect

from reef.conversation import store
from reef.records.database import Database

HOSTILE = """Look <img src=x onerror="window.hacked='img'"> here

<script>window.hacked = 'script'</script> and [press me](javascript:window.hacked='link')
or <a href="javascript:alert(1)" onclick="window.hacked='click'">me</a> <svg onload="window.hacked='svg'"></svg>
<iframe srcdoc="<script>top.hacked=1</script>">

**bold** and [safe](https://example.org/)

| fish | legs |
|:-----|-----:|
| crab | 10   |
"""


def test_page_words_stream_and_end_as_html(chat: ChatPage) -> None:
    """A message is answered word by word, and the finished reply is the stored message, rendered."""
    chat.say(LONG)
    chat.wait_writing()
    expect(chat.stop).to_be_visible()
    chat.wait_told(1)
    stored = chat.history()["messages"][-1]
    assert stored["role"] == "assistant"
    texts = chat.streamed()
    assert len(texts) > 3
    assert grows_only(texts)
    assert squeezed(texts[-1]) == squeezed(stored["content"])
    expect(chat.replies.last.locator(".words")).not_to_have_class(re.compile("plain"))
    expect(chat.replies.last.locator(".words > p").first).to_be_visible()
    expect(chat.replies.last.locator(".figures")).to_contain_text("tokens")
    expect(chat.stop).to_be_hidden()


def test_page_tells_the_device_while_a_reply_waits(chat: ChatPage) -> None:
    """Before the first word the page says who reads and on which device."""
    chat.page.evaluate(
        """() => {
          window.phases = [];
          new MutationObserver(() => {
            const phase = document.querySelector(".phase span:last-child");
            if (phase) window.phases.push(phase.textContent);
          }).observe(document.getElementById("thread"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    chat.ask("Hello")
    phases = chat.page.evaluate("window.phases")
    assert any(re.search(r"is reading… · on \S+", phase) for phase in phases), phases


def test_page_stop_ends_the_reply(chat: ChatPage) -> None:
    """Stop is visible while a reply is written and ends it; what was said so far stays."""
    chat.say(ENDLESS)
    chat.wait_writing()
    chat.stop.click()
    expect(chat.replies.last).to_contain_text("Stopped.")
    stored = chat.history()["messages"][-1]
    assert stored["state"] == "stopped"
    assert squeezed(chat.streamed()[-1]) == squeezed(stored["content"])
    expect(chat.message).to_be_focused()
    expect(chat.stop).to_be_hidden()


def test_page_escape_stops_the_reply(chat: ChatPage) -> None:
    """Esc in the message field stops the reply."""
    chat.say(ENDLESS)
    chat.wait_writing()
    chat.message.press("Escape")
    expect(chat.replies.last).to_contain_text("Stopped.")


def test_page_refresh_loses_and_doubles_nothing(chat: ChatPage) -> None:
    """A page loaded anew in mid-reply shows the reply from its first word and ends with the stored text."""
    chat.say(LONG)
    chat.wait_writing()
    chat.page.reload()
    chat.wait_writing()
    chat.wait_told(1)
    stored = chat.history()["messages"][-1]
    texts = chat.streamed()
    assert len(texts) > 1
    assert grows_only(texts)
    assert squeezed(texts[-1]) == squeezed(stored["content"])
    assert [message["role"] for message in chat.history()["messages"]].count("user") == 1


def test_page_two_tabs_see_the_same_reply(chat: ChatPage, open_chat: Callable[[Page], ChatPage]) -> None:
    """A second tab shows the same words as they come, and hears of a message that the first tab sends."""
    chat.ask("Hello")
    other = open_chat(chat.page.context.new_page()).open(f"/chat/{chat.session_id}")
    expect(other.asked).to_have_count(1)
    chat.say(LONG)
    other.wait_writing()
    for tab in (chat, other):
        tab.wait_told(2)
    stored = squeezed(chat.history()["messages"][-1]["content"])
    for tab in (chat, other):
        texts = tab.streamed()
        assert squeezed(texts[-1]) == stored
    assert len(other.streamed()) > 1
    assert chat.replies.last.locator(".words").inner_text() == other.replies.last.locator(".words").inner_text()


def test_page_stop_works_from_another_tab(chat: ChatPage, open_chat: Callable[[Page], ChatPage]) -> None:
    """A reply that one tab asked for can be stopped in another, and both show it."""
    chat.say(ENDLESS)
    chat.wait_writing()
    other = open_chat(chat.page.context.new_page()).open(f"/chat/{chat.session_id}")
    other.stop.click()
    for tab in (chat, other):
        expect(tab.replies.last).to_contain_text("Stopped.")


def test_page_regenerate_replaces_the_reply(chat: ChatPage) -> None:
    """“Write this reply anew” gives a new reply in the place of the old one."""
    chat.ask("Hello")
    before = chat.history()["messages"]
    chat.replies.last.get_by_role("button", name="Write this reply anew").click()
    chat.page.wait_for_function(
        "(old) => document.querySelector('.turn:last-child')?.dataset.messageId !== old", arg=before[-1]["id"]
    )
    chat.wait_told(1)
    after = chat.history()["messages"]
    assert [message["role"] for message in after] == [message["role"] for message in before]
    assert after[-1]["run_id"] != before[-1]["run_id"]
    assert after[-2]["id"] == before[-2]["id"]


def test_page_edit_and_resend_replaces_what_followed(chat: ChatPage) -> None:
    """An edited message takes the place of the old one and of everything after it."""
    chat.ask("First question")
    chat.ask("Second question")
    first = chat.asked.first
    first.hover()
    first.get_by_role("button", name="Edit and send again").click()
    expect(chat.message).to_have_value("First question")
    chat.say("First question, asked better")
    expect(chat.asked).to_have_count(1)
    chat.wait_told(1)
    contents = [message["content"] for message in chat.history()["messages"] if message["role"] == "user"]
    assert contents == ["First question, asked better"]


def test_page_edit_can_be_left(chat: ChatPage) -> None:
    """↑ in the empty field edits the last message; Esc leaves it as it was."""
    chat.ask("Keep me as I am")
    chat.message.press("ArrowUp")
    expect(chat.message).to_have_value("Keep me as I am")
    chat.message.press("Escape")
    expect(chat.message).to_have_value("")
    expect(chat.asked).to_have_text([re.compile("Keep me as I am")])


def test_page_copy_takes_the_reply_as_written(
    new_context: Callable[..., BrowserContext], open_chat: Callable[[Page], ChatPage]
) -> None:
    """Copy puts the reply's own Markdown on the clipboard."""
    chat = open_chat(new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()).open()
    told = chat.ask("Hello")
    chat.replies.last.get_by_role("button", name="Copy", exact=True).click()
    expect(chat.replies.last.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()") == told


@pytest.fixture
def hostile_session(reef: Any) -> str:
    """A chat whose reply tries everything, stored as a worker stores it."""
    database = Database(f"sqlite:///{reef.data_dir / 'reef.db'}")
    with database.write() as connection:
        session = store.create_session(connection, "alice", title="Hostile")
        store.add_message(connection, store.new_message(session.id, "user", HOSTILE))
        reply = store.new_message(session.id, "assistant", HOSTILE, persona_id="alice", run_id="hostile")
        store.add_message(connection, reply)
    database.dispose()
    return session.id


def test_page_hostile_markdown_is_harmless(
    page: Page, open_chat: Callable[[Page], ChatPage], hostile_session: str
) -> None:
    """Nothing that a model writes runs in the page, and no link in it leads to a script."""
    chat = open_chat(page).open(f"/chat/{hostile_session}")
    words = chat.replies.last.locator(".words")
    expect(words.locator("strong")).to_have_text("bold")
    expect(words.get_by_role("link", name="safe")).to_have_attribute("href", "https://example.org/")
    expect(words.get_by_role("cell", name="10")).to_have_css("text-align", "right")
    assert words.locator("script, iframe, svg:not(.icon), [onerror], [onclick], [onload]").count() == 0
    for link in words.locator("a").all():
        assert not (link.get_attribute("href") or "").lower().startswith("javascript")
        link.evaluate("(link) => { link.target = ''; link.addEventListener('click', (e) => e.preventDefault()); }")
        link.click()
    assert page.evaluate("window.hacked") is None
    expect(chat.asked.last.locator(".words")).to_have_text(HOSTILE)


def test_page_html_that_slips_through_does_not_run(chat: ChatPage, console: Console) -> None:
    """Even if the server's cleaning failed, the page's policy would not let the script run."""
    console.allow("Content Security Policy|Failed to load resource")
    told: list[str] = []

    def unclean(route: Route) -> None:
        response = route.fetch()
        told.append("asked")
        bad = '<p>hi <img src="/assets/none" onerror="window.hacked=1"><a href="javascript:window.hacked=2">x</a></p>'
        route.fulfill(response=response, json=response.json() | {"html": bad})

    chat.page.route(re.compile(r"/api/v1/messages/[^/]+$"), unclean)
    chat.ask("Hello")
    chat.page.wait_for_load_state("networkidle")
    assert told
    assert chat.page.evaluate("window.hacked") is None


def test_page_keeps_a_draft_for_each_chat(chat: ChatPage) -> None:
    """What was typed and not sent stands there again when the chat is opened again, after a reload too."""
    chat.ask("A chat with a draft")
    place = f"/chat/{chat.session_id}"
    chat.message.fill("half a thought")
    chat.page.get_by_role("button", name="New chat").click()
    expect(chat.message).to_have_value("")
    chat.open(place)
    expect(chat.message).to_have_value("half a thought")
    chat.message.fill("")


def test_page_shift_enter_makes_a_line_and_the_field_grows(chat: ChatPage) -> None:
    """Shift+Enter is a new line, the field grows with its text, and nothing is sent."""
    chat.message.fill("one")
    height = chat.message.bounding_box()
    chat.message.press("Shift+Enter")
    chat.message.press_sequentially("two")
    expect(chat.message).to_have_value("one\ntwo")
    grown = chat.message.bounding_box()
    assert height is not None
    assert grown is not None
    assert grown["height"] > height["height"] + 16
    expect(chat.turns).to_have_count(0)


def test_page_search_finds_words_of_a_chat(chat: ChatPage) -> None:
    """Search shows the chats whose title or messages hold the words, and says so when there is none."""
    chat.ask("The zanzibar lighthouse question")
    rows = chat.page.locator(".session-row")
    search = chat.page.get_by_role("searchbox", name="Search chats")
    search.fill("zanzibar lighthouse")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("zanzibar")
    search.fill("no chat says xyzzyq")
    expect(chat.page.get_by_text("No chat mentions")).to_be_visible()
    search.press("Escape")
    expect(rows.first).to_be_visible()


def test_page_rename_and_delete_a_chat(chat: ChatPage) -> None:
    """A chat can be given a name and be deleted; a deleted one says that it is not here."""
    chat.ask("To be renamed")
    place = f"/chat/{chat.session_id}"
    chat.page.get_by_role("button", name="Rename this chat").click()
    field = chat.page.get_by_role("textbox", name="Title of this chat")
    field.fill("Renamed by hand")
    field.press("Enter")
    expect(chat.page.get_by_role("heading", name="Renamed by hand")).to_be_visible()
    expect(chat.page.locator(".session-row", has_text="Renamed by hand")).to_have_count(1)
    chat.page.get_by_role("button", name="Delete this chat").click()
    chat.page.get_by_role("button", name="Delete the chat").click()
    expect(chat.page.locator(".session-row", has_text="Renamed by hand")).to_have_count(0)
    expect(chat.page.get_by_role("heading", name="Who would you like to talk to?")).to_be_visible()
    assert chat.page.request.get(chat.url + place.replace("/chat/", "/api/v1/chat/history/")).status == 404


def test_page_unknown_chat_says_so(page: Page, open_chat: Callable[[Page], ChatPage], console: Console) -> None:
    """An address of a chat that does not exist offers a new one."""
    console.allow("404")
    chat = open_chat(page).open("/chat/never-was")
    expect(page.get_by_role("heading", name="This chat is not here")).to_be_visible()
    page.get_by_role("button", name="Start a new chat").click()
    expect(chat.message).to_be_enabled()


def test_page_busy_reef_counts_down_and_sends_once(chat: ChatPage, console: Console) -> None:
    """A full queue (429) is told with a countdown; the message then goes out by itself, once."""
    console.allow("429")
    refused: list[str | None] = []

    def refuse_once(route: Route) -> None:
        key = route.request.headers.get("idempotency-key")
        refused.append(key)
        if len(refused) > 1:
            route.continue_()
            return
        body = {"title": "Busy", "status": 429, "detail": "All devices are busy.", "retry_after_s": 2}
        route.fulfill(status=429, json=body, headers={"Retry-After": "2"}, content_type="application/problem+json")

    chat.page.route("**/api/v1/chat", refuse_once)
    chat.say("Is anybody there?")
    expect(chat.asked.last).to_contain_text("the queue is full")
    expect(chat.asked.last).to_contain_text(re.compile(r"Trying again in \d s"))
    chat.wait_told(1)
    assert len(refused) == 2
    assert refused[0] == refused[1] is not None


def test_page_refused_message_can_be_taken_back(chat: ChatPage, console: Console) -> None:
    """A message that cannot be sent says why; taking it back puts its text into the field again."""
    console.allow("422")
    body = {"title": "No", "status": 422, "detail": "This text cannot be used."}
    chat.page.route(
        "**/api/v1/chat",
        lambda route: route.fulfill(status=422, json=body, content_type="application/problem+json"),
    )
    chat.say("something odd")
    expect(chat.asked.last).to_contain_text("Not sent. This text cannot be used.")
    chat.page.get_by_role("button", name="Take back").click()
    expect(chat.message).to_have_value("something odd")
    expect(chat.asked).to_have_count(0)


def test_page_demo_model_is_told_plainly(
    page: Page,
    open_chat: Callable[[Page], ChatPage],
    answer_status: Callable[[Page, dict[str, Any]], None],
) -> None:
    """A demo-size model is named as such, with the one command for a better one; the notice can be closed for good."""
    better = {"name": "bigger", "command": "coral-reef models pull bigger"}
    answer_status(page, {"model": {"name": "tiny", "title": "Tiny", "demo": True, "better": better}})
    chat = open_chat(page).open()
    notice = page.get_by_role("complementary", name="About the model")
    expect(notice).to_contain_text("Tiny is a demo-size model")
    expect(notice).to_contain_text("coral-reef models pull bigger")
    notice.get_by_role("button", name="Close this notice").click()
    expect(notice).to_have_count(0)
    with page.expect_response("**/api/v1/system/status"):
        chat.open()
    expect(page.locator("#foot-status-text")).not_to_have_text("Status")
    expect(notice).to_have_count(0)


def test_page_long_chats_stay_light(page: Page, open_chat: Callable[[Page], ChatPage], reef: Any) -> None:
    """Of a long chat the newest turns stand in the page; earlier ones come on demand, without a jump."""
    database = Database(f"sqlite:///{reef.data_dir / 'reef.db'}")
    with database.write() as connection:
        session = store.create_session(connection, "alice", title="Long")
        for number in range(150):
            store.add_message(connection, store.new_message(session.id, "user", f"question {number}"))
            reply = store.new_message(
                session.id, "assistant", f"answer {number}", persona_id="alice", run_id=f"r{number}"
            )
            store.add_message(connection, reply)
    database.dispose()
    chat = open_chat(page).open(f"/chat/{session.id}")
    expect(chat.turns.last).to_be_in_viewport()
    assert chat.turns.count() == 120
    page.locator("#thread-scroll").evaluate("(box) => { box.scrollTop = 0; }")
    jump = page.get_by_role("button", name="Jump to latest")
    expect(jump).to_be_visible()
    first = page.get_by_text("question 90", exact=True)
    page.get_by_role("button", name="Show earlier messages").click()
    expect(chat.turns).to_have_count(240)
    expect(first).to_be_in_viewport()
    jump.click()
    expect(page.get_by_text("answer 149", exact=True)).to_be_in_viewport()
