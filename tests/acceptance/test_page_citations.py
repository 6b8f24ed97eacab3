"""From a dropped file to a cited answer to the passage: what a person does with documents, in one sitting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from chat_page import PHONE, ChatPage, assert_sound
from documents_page import DocumentsPage, knowledge_queues
from playwright.sync_api import BrowserContext, Page, expect
from whole_product import Reef, running_reef

FACT = "The lighthouse keeper of Skagen is called Mette Holm."
QUESTION = "Who is the lighthouse keeper of Skagen?"
OTHER_FACT = "Grenen's harbour master, Jens Lund, plays chess. "
OTHER_QUESTION = "Which harbour master plays chess?"


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A product with simulated devices: the chat device echoes its prompt, marks of passages included."""
    with running_reef(tmp_path_factory.mktemp("reef"), knowledge_queues(1)) as started:
        yield started


def ask(page: Page, reef: Reef, question: str = QUESTION) -> ChatPage:
    """A question in a new chat, answered."""
    chat = ChatPage(page, reef.url).open()
    chat.say(question)
    chat.wait_told(1)
    return chat


def test_drop_ask_follow_the_citation(page: Page, reef: Reef) -> None:
    """The answer carries a numbered link; it opens the document with the passage marked and in view."""
    shelf = DocumentsPage(page, reef.url).open()
    filler = "\n\n".join(f"## Part {n}\n\n" + " ".join(f"sail{n}x{word}" for word in range(220)) for n in range(6))
    shelf.drop(
        {"keepers.md": f"# Keepers\n\n{filler}\n\n## Skagen\n\n{FACT}\n", "boats.txt": "Boats are painted blue."}
    )
    shelf.wait_finished("2 files ready")
    chat = ask(page, reef)
    sources = chat.replies.last.get_by_role("region", name="Sources")
    link = sources.get_by_role("link").first
    expect(link).to_contain_text("keepers.md")
    mark = chat.replies.last.locator(".words a.cite").first
    expect(mark).to_have_text("1")
    expect(mark).to_have_attribute("aria-label", re.compile(r"Source 1: keepers\.md"))
    assert_sound(page)
    mark.click()
    expect(page).to_have_url(re.compile(r"/documents/[0-9a-f]+\?chunk=\d+&from=\d+&to=\d+$"))
    passage = page.locator("mark", has_text="Mette Holm")
    expect(passage.first).to_be_in_viewport()
    assert_sound(page)


def test_sources_stay_after_a_reload_and_fit_a_phone(new_context: Callable[..., BrowserContext], reef: Reef) -> None:
    """What a reply rests on is stored with it, and the list is no wider than the screen."""
    page = new_context(**PHONE).new_page()
    shelf = DocumentsPage(page, reef.url).open()
    shelf.drop({"a-file-with-a-very-long-name-that-no-phone-is-wide-enough-for.txt": OTHER_FACT * 3})
    shelf.wait_finished("1 file ready")
    chat = ask(page, reef, OTHER_QUESTION)
    expect(chat.replies.last.locator(".source").first).to_be_visible()
    page.reload()
    expect(chat.replies.last.locator(".source").first).to_be_visible()
    assert_sound(page)


def test_the_place_that_is_meant_is_marked_with_its_page(page: Page, reef: Reef) -> None:
    """Of a passage over two pages the sentence alone is marked, its page is named, and a line says where it begins."""
    shelf = DocumentsPage(page, reef.url)
    text = " ".join(f"first{n}" for n in range(50)) + "\f" + " ".join(f"second{n}" for n in range(50))
    shelf.send({"two-pages.txt": text})
    (document,) = shelf.get("/api/v1/documents?query=two-pages")["documents"]
    (chunk,) = shelf.get(f"/api/v1/documents/{document['id']}/chunks")["chunks"]
    start = text.index("second7")
    shelf.open(f"/documents/{document['id']}?chunk={chunk['id']}&from={start}&to={start + len('second7 second8')}")
    expect(page.locator("mark")).to_have_text("second7 second8")
    expect(page.locator("mark")).to_be_in_viewport()
    expect(page.locator("#step-words")).to_have_text("Passage 1 of 1 · Page 2")
    expect(page.get_by_role("separator", name="Page 2")).to_be_visible()
    assert page.locator(".passage-body").inner_text().split() == text.split()
    assert_sound(page)


def test_the_citation_of_a_replaced_document_leads_on(page: Page, reef: Reef) -> None:
    """It ends neither in a blank page nor at a file that is gone."""
    shelf = DocumentsPage(page, reef.url)
    shelf.send({"rules.txt": "the old rules"})
    (old,) = shelf.get("/api/v1/documents?query=rules.txt")["documents"]
    shelf.send({"rules.txt": "the new rules"})
    shelf.open(f"/documents/{old['id']}?chunk=1&from=3&to=9")
    expect(page.get_by_role("link", name="Original")).to_be_hidden()
    page.get_by_role("link", name="Open the newer one at about this place").click()
    expect(page.locator(".passage[aria-current]")).to_contain_text("the new rules")
    expect(page.locator("mark")).to_have_count(0)
