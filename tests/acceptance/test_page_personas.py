"""A person makes, changes and deletes a persona on the chat page; the page tells "none" from "not known"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from chat_page import ChatPage, Console, assert_sound
from playwright.sync_api import Page, Route, expect

from reef.conversation import store
from reef.records.database import Database


def test_page_persona_is_made_changed_and_deleted(chat: ChatPage) -> None:
    """A new persona greets in a new chat, answers, shows its changes, and is gone when deleted."""
    page = chat.page
    dialog = page.locator("#persona-dialog")
    page.get_by_role("button", name="New persona").click()
    dialog.get_by_label("Name", exact=True).fill("Nemo")
    dialog.get_by_label("Avatar").fill("NM")
    dialog.get_by_role("radio", name="Lagoon").check(force=True)
    dialog.get_by_label("Description").fill("Finds the way home.")
    dialog.get_by_label("Instructions").fill("You are Nemo.")
    dialog.get_by_label("Greeting").fill("Ahoy, I am Nemo!")
    dialog.get_by_label(re.compile("^Temperature")).fill("0.3")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog).to_be_hidden()

    stored = next(persona for persona in chat.get("/api/v1/personas")["personas"] if persona["name"] == "Nemo")
    assert stored["avatar"] == "NM"
    assert stored["color"] == "#2fa39a"
    assert stored["system_prompt"] == "You are Nemo."
    assert stored["temperature"] == 0.3
    expect(page.locator(".card", has_text="Ahoy, I am Nemo!")).to_have_attribute("aria-pressed", "true")
    chat.ask("Which way?")
    assert chat.history()["session"]["persona_id"] == stored["id"]
    expect(chat.replies.first).to_contain_text("Ahoy, I am Nemo!")
    expect(chat.replies.last.get_by_role("heading", name="Nemo")).to_be_attached()

    page.locator(".persona-row", has_text="Nemo").hover()
    page.get_by_role("button", name="Edit Nemo").click()
    expect(dialog.get_by_label("Description")).to_have_value("Finds the way home.")
    dialog.get_by_label("Name", exact=True).fill("Captain Nemo")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".persona-name", has_text="Captain Nemo")).to_be_visible()

    page.locator(".persona-row", has_text="Captain Nemo").hover()
    page.get_by_role("button", name="Edit Captain Nemo").click()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete Captain Nemo").click()
    expect(page.locator(".persona-name", has_text="Captain Nemo")).to_have_count(0)
    assert stored["id"] not in {persona["id"] for persona in chat.get("/api/v1/personas")["personas"]}


def test_page_persona_without_a_name_is_refused_at_the_field(chat: ChatPage) -> None:
    """The sentence stands at the field, and the field has the focus."""
    page = chat.page
    page.get_by_role("button", name="New persona").click()
    dialog = page.locator("#persona-dialog")
    dialog.get_by_role("button", name="Create").click()
    name = dialog.get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(dialog.locator("#persona-name-error")).to_have_text("A persona needs a name.")


def test_page_persona_refused_by_the_server_is_told_at_the_field(chat: ChatPage, console: Console) -> None:
    """A value only the server knows to be wrong is told at its field, in the server's words."""
    console.allow("40[0-9]|422")
    page = chat.page
    page.get_by_role("button", name="New persona").click()
    dialog = page.locator("#persona-dialog")
    name = dialog.get_by_label("Name", exact=True)
    name.evaluate("(field) => field.removeAttribute('maxlength')")
    name.fill("x" * 200)
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator("#persona-name-error")).to_have_text(re.compile(r"\w+"))
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(dialog).to_be_visible()


def test_page_persona_dialog_previews_the_face(chat: ChatPage) -> None:
    """The avatar in the dialog follows what is typed, and Esc asks before that is thrown away."""
    page = chat.page
    page.get_by_role("button", name="New persona").click()
    dialog = page.locator("#persona-dialog")
    dialog.get_by_label("Name", exact=True).fill("zoe")
    expect(dialog.locator(".avatar")).to_have_text("Z")
    dialog.get_by_label("Avatar").fill("Q")
    expect(dialog.locator(".avatar")).to_have_text("Q")
    asked = page.get_by_role("dialog", name="Discard your changes?")
    for _ in range(2):
        page.keyboard.press("Escape")
        expect(asked).to_be_visible()
        page.keyboard.press("Escape")
        expect(asked).to_be_hidden()
        expect(dialog.get_by_label("Avatar")).to_have_value("Q")
    page.keyboard.press("Escape")
    asked.get_by_role("button", name="Discard").click()
    expect(dialog).to_be_hidden()


def test_page_shows_chats_beyond_the_newest_hundred(chat: ChatPage, reef: Any) -> None:
    """With the keyboard, in the whole list and in a search; a refresh of the list keeps what came."""
    database = Database(f"sqlite:///{reef.data_dir / 'reef.db'}")
    with database.write() as connection:
        for number in range(130):
            store.create_session(connection, "alice", title=f"Wreck {number:03}")
    database.dispose()
    search = chat.page.get_by_role("searchbox", name="Search chats")
    search.fill("WRECK")
    rows = chat.page.locator(".session-row")
    earlier = chat.page.get_by_role("button", name="Show earlier chats")
    expect(rows).to_have_count(100)
    expect(rows.last).to_contain_text("Wreck 030")
    earlier.focus()
    earlier.press("Enter")
    expect(rows).to_have_count(130)
    expect(rows.nth(100)).to_be_focused()
    expect(earlier).to_have_count(0)
    chat.page.keyboard.press("End")
    expect(rows.last).to_be_focused()
    with chat.page.expect_response("**/api/v1/sessions?*limit=130"):
        chat.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(rows).to_have_count(130)
    expect(rows.last).to_be_focused()
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_role("heading", name="Wreck 000")).to_be_visible()


def test_page_reply_that_was_cut_off_says_so_and_goes_on(chat: ChatPage) -> None:
    """The note stands there after a reload too; Continue brings a second reply and changes nothing of the first."""
    body = {"persona_id": "alice", "message": "How does a reef grow?", "tokens_max": 5}
    told = chat.page.request.post(f"{chat.url}/api/v1/chat", data=body).json()
    chat.open(f"/chat/{told['session_id']}")
    expect(chat.replies).to_have_count(1)
    expect(chat.replies.last).to_contain_text("The reply reached its limit of 5 tokens.")
    chat.page.get_by_role("button", name="Continue").click()
    chat.wait_writing()
    expect(chat.page.get_by_role("button", name="Continue")).to_have_count(0)
    chat.stop.click()
    expect(chat.replies.last).to_contain_text("Stopped.")
    asked, first, second = chat.history()["messages"]
    assert (asked["role"], first["finish_reason"], second["finish_reason"]) == ("user", "length", None)
    assert first == told["message"]
    assert second["persona_id"] == "alice"


def test_page_words_that_do_not_fit_the_model_are_told_with_what_helps(chat: ChatPage) -> None:
    """A message that is too long comes back to be edited; where the instructions are, those are."""
    chat.say("reef " * 4200)
    expect(chat.replies.last).to_contain_text(
        re.compile(r"too long for the model \(4,2\d\d of 4,096 tokens\); shorten it")
    )
    expect(chat.page.get_by_role("button", name="Try again")).to_have_count(0)
    chat.replies.last.get_by_role("button", name="Edit").click()
    expect(chat.message).to_be_focused()
    assert len(chat.message.input_value().split()) == 4200
    chat.message.fill("reef")
    chat.message.press("Enter")
    chat.wait_told(1)

    draft = {"name": "Wordy", "system_prompt": "be " * 5000}
    persona = chat.page.request.post(f"{chat.url}/api/v1/personas", data=draft).json()
    answer = chat.page.request.post(f"{chat.url}/api/v1/chat", data={"persona_id": persona["id"], "message": "Hello"})
    assert (answer.status, answer.json()["code"]) == (422, "instructions_too_long")
    assert "The instructions of Wordy leave no room for a message (5,004 of 4,096 tokens)" in answer.json()["detail"]
    chat.open()
    chat.page.locator(".card", has_text="Wordy").click()
    chat.say("Hello")
    chat.replies.last.get_by_role("button", name="Edit Wordy").click()
    expect(chat.page.locator("#persona-dialog").get_by_label("Instructions")).to_be_visible()


def test_page_persona_of_a_model_that_is_not_here_is_saved_with_a_warning(chat: ChatPage) -> None:
    """The field suggests models and no personas; which one answered instead is still told after a reload."""
    page, dialog = chat.page, chat.page.locator("#persona-dialog")
    page.get_by_role("button", name="New persona").click()
    offered = page.locator("#persona-models option[value=smollm2-135m-instruct]")
    expect(offered).to_have_text("SmolLM2 135M Instruct, can be fetched")
    expect(page.locator("#persona-models option[value=alice]")).to_have_count(0)
    dialog.get_by_label("Name", exact=True).fill("Elsewhere")
    dialog.get_by_label("Model").fill("never-heard-of")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator(".form-warnings")).to_contain_text("Elsewhere is saved.")
    expect(dialog.locator(".form-warnings")).to_contain_text("There is no chat model never-heard-of here")
    expect(dialog.locator(".form-warnings")).to_be_in_viewport()
    assert_sound(page)
    dialog.get_by_role("button", name="Close").last.click()
    chat.say("Hello")
    note = chat.replies.last.get_by_text("Answered by simulated; never-heard-of is not loaded.")
    chat.wait_told(1)
    page.reload()
    expect(note).to_be_visible()
    assert chat.history()["messages"][-1]["notice"].startswith("Answered by")


def test_page_tells_loading_from_failed_from_none(
    page: Page, open_chat: Callable[[Page], ChatPage], reef: Any, console: Console
) -> None:
    """Nobody is told that there are no personas before that is known; once they can be had, they come by themselves."""
    console.allow("503")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/api/v1/personas", hold)
    with page.expect_request("**/api/v1/personas"):
        page.goto(reef.url)
    heading = page.locator(".welcome h2")
    expect(page.locator(".cards.waiting")).to_be_visible()
    expect(heading).to_have_text("Who would you like to talk to?")
    body = {"title": "Down", "status": 503, "detail": "The database does not answer."}
    waiting.pop().fulfill(status=503, json=body)
    expect(heading).to_have_text("Your personas cannot be shown just now")
    expect(page.locator(".welcome")).to_contain_text("The database does not answer.")
    with page.expect_request("**/api/v1/personas"):
        page.locator(".welcome").get_by_role("button", name="Try again").click()
    expect(page.locator(".cards.waiting")).to_be_visible()
    waiting.pop().fulfill(json={"personas": []})
    expect(heading).to_have_text("Nobody lives here yet")
    page.unroute("**/api/v1/personas")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator(".card").first).to_be_visible()


def test_page_chat_of_a_deleted_persona_can_be_read(chat: ChatPage) -> None:
    """It says why nobody answers, offers nothing that cannot be done, and a new chat takes what was written along."""
    page = chat.page
    made = page.request.post(f"{chat.url}/api/v1/personas", data={"name": "Zed", "greeting": "Zed here."}).json()
    page.evaluate("dispatchEvent(new Event('focus'))")
    page.locator(f"[data-persona-pick='{made['id']}']").click()
    chat.ask("Who are you?")
    chat.message.fill("half a thought")
    assert page.request.delete(f"{chat.url}/api/v1/personas/{made['id']}").ok
    page.evaluate("dispatchEvent(new Event('focus'))")
    closed = page.locator("#composer-closed")
    expect(closed).to_contain_text("This persona was deleted; the chat can be read.")
    expect(chat.message).to_be_hidden()
    expect(chat.replies.last).to_contain_text("Deleted persona")
    expect(page.locator(".regenerate, .edit")).to_have_count(0)
    closed.get_by_role("button").click()
    expect(chat.message).to_have_value("half a thought")
    expect(chat.message).to_be_enabled()


def test_page_chat_deleted_elsewhere_is_told(chat: ChatPage, console: Console) -> None:
    """What is written into it is refused, told and kept; the deleted chat does not come back."""
    console.allow("410|404")
    chat.ask("Hello")
    where = f"{chat.url}/api/v1/chat/history/{chat.session_id}"
    assert chat.page.request.delete(where).ok
    chat.say("written too late")
    expect(chat.page.get_by_role("heading", name="This chat was deleted")).to_be_visible()
    assert chat.page.request.get(where).status == 404
    chat.page.get_by_role("button", name="Start a new chat").click()
    expect(chat.message).to_have_value("written too late")
    expect(chat.page.locator(".card").first).to_be_visible()
