"""The documents page: files are dropped, watched, found, assigned, asked and deleted; a citation leads to its place."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from chat_page import PHONE, Console, assert_sound
from documents_page import DocumentsPage, knowledge_queues
from playwright.sync_api import BrowserContext, Page, expect
from whole_product import Reef, running_reef

from reef.records.database import Database
from reef.records.tables import document_stores, documents

MANY = 2_000


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A product with simulated pools of knowledge; a text takes 15 ms."""
    with running_reef(
        tmp_path_factory.mktemp("reef"), knowledge_queues(15), upload_file_bytes_max=40_000_000
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_there(reef: Reef) -> None:
    """Every test begins with an empty list."""
    with reef.client() as client:
        for upload in client.get("/api/v1/uploads").json()["uploads"]:
            if upload["state"] not in ("done", "cancelled"):
                client.post(f"/api/v1/uploads/{upload['id']}/cancel")
    database = Database(f"sqlite:///{reef.data_dir / 'reef.db'}")
    with database.write() as connection:
        connection.execute(sa.delete(document_stores))
        connection.execute(sa.delete(documents))
    database.dispose()


@pytest.fixture
def shelf(page: Page, reef: Reef) -> DocumentsPage:
    """The documents page, open."""
    return DocumentsPage(page, reef.url).open()


def words(count: int, about: str) -> str:
    """A text of so many words."""
    return " ".join(f"{about}{number}" for number in range(count))


def test_dropped_files_are_watched_until_they_are_ready(shelf: DocumentsPage) -> None:
    """Twenty files dropped anywhere: a card counts, rows come to rest, the one that is bad says why, and it is told."""
    page = shelf.page
    expect(page.locator("#empty")).to_contain_text("Drop files or folders here")
    shelf.listen()
    files = {f"note-{number:02}.txt": words(150, f"reef{number}") for number in range(19)}
    shelf.drop(files | {"torn.txt": "!bad"})
    expect(shelf.cards).to_have_count(1)
    bar = shelf.cards.first.get_by_role("progressbar").first
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^\d+$"))
    shelf.wait_finished("19 files ready, 1 failed")
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(page.locator("#count")).to_have_text("20 documents")
    page.get_by_label("Find by name").fill("note-07")
    expect(shelf.row("note-07.txt")).to_contain_text("Ready")
    page.get_by_label("Find by name").fill("torn")
    expect(shelf.row("torn.txt")).to_contain_text("was told to refuse this file")
    shelf.cards.first.get_by_text("1 file failed").click()
    expect(shelf.cards.first.locator(".upload-errors")).to_contain_text("was told to refuse this file")
    page.wait_for_function("window.heard.some((words) => words.includes('19 files ready, 1 failed'))")
    assert len(shelf.heard()) <= 4, "only beginnings and ends are told, never each file"


def test_a_folder_keeps_its_paths_and_loses_what_is_hidden(shelf: DocumentsPage, tmp_path: Path) -> None:
    """Files of a folder are named by their way in it; what systems leave behind is left out, and that is said."""
    folder = tmp_path / "reports"
    (folder / "2024").mkdir(parents=True)
    (folder / "2024" / "spring.txt").write_text("corals in spring")
    (folder / ".DS_Store").write_text("x")
    shelf.choose_folder(folder)
    shelf.wait_finished("1 file ready")
    expect(shelf.row("spring.txt")).to_contain_text("reports/2024")
    expect(shelf.cards.first).to_contain_text("1 hidden file left out")
    expect(shelf.cards.first.get_by_role("heading")).to_have_text("reports")


def test_whose_documents_they_are_is_chosen_before_and_changed_after(shelf: DocumentsPage) -> None:
    """The choice is remembered; an assigned document moves to its personas, and the filter finds it there."""
    page = shelf.page
    first, second = (persona["name"] for persona in shelf.get("/api/v1/personas")["personas"][:2])
    page.get_by_role("button", name="For: Shared with all").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(first).check()
    dialog.get_by_role("button", name="Use this").click()
    shelf.open()
    expect(page.locator("#for-whom")).to_contain_text(first)
    shelf.drop({"hers.txt": "only for one"})
    shelf.wait_finished()
    expect(shelf.row("hers.txt")).to_contain_text(first)
    shelf.row("hers.txt").get_by_role("checkbox").check()
    page.get_by_role("button", name="Assign").click()
    dialog.get_by_label(first).uncheck()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("Choose at least one persona")
    dialog.get_by_label(second).check()
    dialog.get_by_role("button", name="Save").click()
    expect(shelf.row("hers.txt")).to_contain_text(second)
    page.get_by_role("button", name="Choose none").click()
    page.get_by_label("Persona", exact=True).select_option(label=first)
    expect(page.locator("#none-fit")).to_be_visible()
    page.get_by_label("Persona", exact=True).select_option(label=second)
    expect(shelf.row("hers.txt")).to_be_visible()


def test_the_list_is_narrowed_and_the_address_keeps_it(shelf: DocumentsPage) -> None:
    """Name, state and type narrow the list; a reload shows the same."""
    shelf.send({"a/tides.txt": "tides", "b/data.csv": "x,y", "c/torn.txt": "!bad"})
    shelf.open()
    page = shelf.page
    expect(shelf.rows).to_have_count(3)
    page.get_by_label("State").select_option("Failed")
    expect(shelf.rows).to_have_count(1)
    expect(shelf.row("torn.txt")).to_be_visible()
    page.reload()
    expect(shelf.rows).to_have_count(1)
    page.get_by_label("State").select_option("Any state")
    page.get_by_label("Type").select_option("Spreadsheets")
    expect(shelf.row("data.csv")).to_be_visible()
    expect(page.locator("#count")).to_have_text("1 document")
    page.get_by_label("Type").select_option("Any type")
    page.get_by_label("Find by name").fill("tid")
    expect(shelf.rows).to_have_count(1)
    page.get_by_label("Find by name").fill("nothing like it")
    page.get_by_role("button", name="Show all documents").click()
    expect(shelf.rows).to_have_count(3)


def test_documents_are_deleted_and_tried_again(shelf: DocumentsPage) -> None:
    """Many at once, after a question; a failed one is tried again from its row."""
    shelf.send({"keep.txt": "stays", "go.txt": "goes", "torn.txt": "!bad"})
    shelf.open()
    page = shelf.page
    shelf.row("torn.txt").get_by_role("button", name="Try again").click()
    expect(shelf.row("torn.txt")).to_contain_text("was told to refuse")
    page.get_by_role("checkbox", name="Choose all 3 documents").check()
    expect(page.locator("#chosen-words")).to_have_text("3 documents chosen")
    expect(shelf.row("keep.txt").get_by_role("checkbox")).to_be_checked()
    shelf.row("keep.txt").get_by_role("checkbox").uncheck()
    expect(page.locator("#chosen-words")).to_have_text("2 documents chosen")
    page.locator("#chosen-delete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()
    expect(shelf.rows).to_have_count(3)
    page.locator("#chosen-delete").click()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    expect(shelf.rows).to_have_count(1)
    assert [one["name"] for one in shelf.get("/api/v1/documents")["documents"]] == ["keep.txt"]


def test_a_question_leads_to_the_marked_passage(shelf: DocumentsPage) -> None:
    """The passage found is marked, focused and on the screen; its neighbours are a key away; another can be linked."""
    page = shelf.page
    pages = [words(130, f"{about}word") for about in ("alpha", "beta", "gamma", "delta")]
    shelf.send({"book.txt": "\f".join(pages)})
    shelf.open()
    page.get_by_label("Ask the documents").last.fill("gammaword60 gammaword61 gammaword62")
    page.keyboard.press("Enter")
    found = page.locator(".passage-found").first
    expect(found).to_contain_text("Page")
    expect(page.locator("#ask-note")).to_contain_text("passage")
    found.get_by_role("link").click()
    page.wait_for_url(re.compile(r"/documents/\w+\?chunk=\d+$"))
    marked = page.locator(".passage[aria-current]")
    expect(marked).to_be_focused()
    expect(marked).to_be_in_viewport()
    expect(marked).to_have_attribute("aria-label", re.compile(r"^Passage \d, Page"))
    chunk = page.url.rsplit("=", 1)[1]
    document_id = re.search(r"/documents/(\w+)", page.url).group(1)  # type: ignore[union-attr]
    chunks = shelf.get(f"/api/v1/documents/{document_id}/chunks")["chunks"]
    [wanted] = [one for one in chunks if str(one["id"]) == chunk]
    assert "".join(page.locator("mark").all_inner_texts()).split() == wanted["text"].split()
    page.keyboard.press("k")
    expect(page.locator("#step-words")).to_contain_text(f"Passage {wanted['number']} of {len(chunks)}")
    page.get_by_role("button", name="Next").click()
    expect(marked).to_have_id(f"passage-{chunk}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Original").click()
    assert download.value.suggested_filename == "book.txt"
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/documents")
    expect(page.locator("#empty")).to_be_visible()


def test_an_unreachable_document_and_passage_are_told_in_words(shelf: DocumentsPage, console: Console) -> None:
    """Old citations do not end in a blank page."""
    console.allow("404")
    page = shelf.page
    shelf.open("/documents/gone")
    expect(page.get_by_role("heading", level=1)).to_have_text("This document is not here")
    shelf.send({"here.txt": "here it is"})
    [document] = shelf.get("/api/v1/documents")["documents"]
    shelf.open(f"/documents/{document['id']}?chunk=999999")
    expect(page.locator("#trouble")).to_contain_text("not here any more")
    expect(page.locator(".passage")).to_contain_text("here it is")


def test_a_large_file_goes_on_where_the_line_broke(shelf: DocumentsPage, console: Console, tmp_path: Path) -> None:
    """A part that is lost is sent again from where the file ends; nothing that arrived is sent twice."""
    console.allow("ERR_FAILED|ERR_CONNECTION")
    page = shelf.page
    big = tmp_path / "big.txt"
    big.write_text("coral " * 3_500_000)
    offsets: list[int] = []

    def lose_the_second(route: Any) -> None:
        offsets.append(int(route.request.headers["upload-offset"]))
        if len(offsets) == 2:
            route.abort()
        else:
            route.continue_()

    page.route(
        re.compile(r"/api/v1/uploads/files/\w+"),
        lambda route: lose_the_second(route) if route.request.method == "PATCH" else route.fallback(),
    )
    shelf.choose(big)
    expect(shelf.row("big.txt")).to_be_visible()
    expect(shelf.cards.first.locator(".upload-words")).to_contain_text(re.compile("Reading and indexing|Finished"))
    part = 8 * 1024 * 1024
    assert offsets == [0, part, part, 2 * part]


def test_an_upload_pauses_goes_on_and_survives_a_reload(shelf: DocumentsPage, tmp_path: Path) -> None:
    """In mid-upload: paused at will, after a reload its state is shown, and the same files chosen again complete it."""
    page = shelf.page
    passed = iter(range(1))

    def hold(route: Any) -> None:
        if next(passed, None) is not None:
            route.continue_()

    folder = tmp_path / "half"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(words(40, f"half{number}word"))
    page.route("**/api/v1/documents/upload", hold)
    shelf.choose_folder(folder)
    expect(shelf.cards.first.locator(".upload-words")).to_contain_text(re.compile(r"Sending: \d+ of 60 sent"))
    expect(shelf.cards.first.locator(".upload-words")).not_to_contain_text("Sending: 0 of")
    shelf.cards.first.get_by_role("button", name="Pause").click()
    expect(shelf.cards.first.locator(".upload-words")).to_contain_text("Paused")
    page.unroute("**/api/v1/documents/upload")
    shelf.cards.first.get_by_role("button", name="Go on").click()
    shelf.wait_finished("60 files ready")
    assert shelf.get("/api/v1/documents")["total"] == 60

    page.route("**/api/v1/documents/upload", hold)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        (other / f"{number}.txt").write_text(f"other {number}")
    with page.expect_request("**/api/v1/documents/upload"):
        shelf.choose_folder(other)
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.unroute("**/api/v1/documents/upload")
    card = shelf.cards.first
    expect(card.locator(".upload-words")).to_contain_text("choose the same files again")
    with page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="From a folder").click()
    chooser.value.set_files(other)
    shelf.wait_finished("3 files ready")
    assert shelf.get("/api/v1/documents")["total"] == 63


def test_a_cancelled_upload_keeps_what_is_ready(shelf: DocumentsPage) -> None:
    """What is not ready yet ends, and row and card say so."""
    shelf.drop({"slow.txt": "never done " * 3_000} | {f"{number}.txt": f"{number} !fail" for number in range(4)})
    card = shelf.cards.first
    expect(shelf.row("1.txt")).to_be_visible()
    card.get_by_role("button", name="Cancel").click()
    shelf.page.get_by_role("dialog").get_by_role("button", name="Cancel the upload").click()
    expect(card.locator(".upload-words")).to_contain_text("Cancelled")
    expect(card.get_by_role("button", name="Dismiss")).to_be_focused()
    expect(shelf.rows.filter(has_text="Cancelled").first).to_be_visible()
    card.get_by_role("button", name="Dismiss").press("Enter")
    expect(shelf.cards).to_have_count(0)
    expect(shelf.page.locator("#add-files")).to_be_focused()


def test_what_cannot_be_sent_is_said_before_it_is_sent(shelf: DocumentsPage, tmp_path: Path) -> None:
    """A file beyond the limit never leaves the browser, and the words name both sizes."""
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        file.truncate(41_000_000)
    shelf.choose(huge)
    card = shelf.cards.first
    card.get_by_text("1 file failed").click()
    expect(card.locator(".upload-errors")).to_contain_text("41.0 MB; a document may have 40.0 MB")
    assert shelf.get("/api/v1/documents")["total"] == 0


def test_what_others_upload_is_seen_and_the_line_mends(shelf: DocumentsPage, console: Console) -> None:
    """An upload of a script appears by itself; after a lost connection the page shows how things stand."""
    console.allow("WebSocket|ERR_")
    page = shelf.page
    shelf.send({"script.txt": words(300, "script")})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(shelf.row("script.txt")).to_contain_text("Ready")
    page.context.set_offline(True)
    shelf.send({"meanwhile.txt": "written while the line was down"})
    page.context.set_offline(False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(shelf.row("meanwhile.txt")).to_contain_text("Ready")
    shelf.row("meanwhile.txt").get_by_role("link").focus()
    documents = {one["name"]: one["id"] for one in shelf.get("/api/v1/documents")["documents"]}
    page.request.delete(f"{shelf.url}/api/v1/documents/{documents['meanwhile.txt']}")
    expect(shelf.row("meanwhile.txt")).to_have_count(0, timeout=15_000)
    expect(shelf.row("script.txt").get_by_role("link")).to_be_focused()


def test_the_page_works_by_keyboard_alone(shelf: DocumentsPage) -> None:
    """Skip to the list, move, choose, delete, open: without a mouse."""
    shelf.send({f"key-{number}.txt": f"key {number}" for number in range(5)})
    shelf.open()
    page, keys = shelf.page, shelf.page.keyboard
    skip = page.get_by_role("link", name="Skip to the documents")
    skip.focus()
    keys.press("Enter")
    expect(shelf.rows.nth(0).get_by_role("link")).to_be_focused()
    assert page.evaluate("pageChecks.focusShown()") == ""
    keys.press("ArrowDown")
    keys.press("Space")
    expect(shelf.rows.nth(1).get_by_role("checkbox")).to_be_checked()
    keys.press("End")
    last = shelf.rows.nth(4).get_by_role("link")
    expect(last).to_be_focused()
    name = last.inner_text()
    keys.press("Delete")
    expect(page.get_by_role("dialog")).to_contain_text(f"Delete {name}?")
    keys.press("Tab")
    keys.press("Enter")
    expect(shelf.rows).to_have_count(4)
    keys.press("Home")
    page.locator(".document-name").first.focus()
    keys.press("Enter")
    page.wait_for_url(re.compile(r"/documents/\w{32}$"))
    for _ in range(8):
        keys.press("Tab")
        assert page.evaluate("pageChecks.focusShown()") == ""


def test_thousands_of_rows_stay_few_elements(shelf: DocumentsPage, reef: Reef) -> None:
    """Of 2,000 documents only those on the screen are elements; the last is one key away."""
    database = Database(f"sqlite:///{reef.data_dir / 'reef.db'}")
    now = time.time()
    rows = [
        {
            "id": uuid.uuid4().hex,
            "name": f"box/{number:04}.txt",
            "size_bytes": 1,
            "state": "indexed",
            "state_at": now,
            "created_at": now - number,
        }
        for number in range(MANY)
    ]
    with database.write() as connection:
        connection.execute(documents.insert(), rows)
        connection.execute(document_stores.insert(), [{"document_id": row["id"], "store": "shared"} for row in rows])
    database.dispose()
    shelf.open()
    page = shelf.page
    expect(page.locator("#count")).to_have_text("2,000 documents")
    expect(shelf.row("0000.txt")).to_be_visible()
    page.locator(".document-name").first.focus()
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="1999.txt")).to_be_focused()
    expect(page.get_by_role("link", name="1999.txt")).to_be_in_viewport()
    assert page.locator("#document-rows [role=row]").count() < 60
    page.get_by_role("checkbox", name="Choose all 2,000 documents").click()
    expect(page.locator("#chosen-words")).to_have_text("2,000 documents chosen")


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_every_state_is_legible_named_and_fits(
    options: dict[str, Any], new_context: Callable[..., BrowserContext], reef: Reef
) -> None:
    """Empty, uploads, list, answer, dialogs, viewer: names, headings, contrast, targets, and no sideways scrolling."""
    page = new_context(**options).new_page()
    shelf = DocumentsPage(page, reef.url).open()
    width = page.viewport_size["width"] if page.viewport_size else 0

    def assert_fits() -> None:
        assert_sound(page)
        assert page.evaluate("pageChecks.smallTargets()") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    assert_fits()
    shelf.drop({"a-rather-long-name-of-a-file-that-goes-on-and-on.txt": words(200, "long"), "torn.txt": "!bad"})
    shelf.wait_finished("1 file ready, 1 failed")
    shelf.cards.first.get_by_text("1 file failed").click()
    expect(shelf.rows).to_have_count(2)
    page.locator("#ask-question").fill("long5 long6")
    page.keyboard.press("Enter")
    expect(page.locator(".passage-found").first).to_be_visible()
    assert_fits()
    shelf.rows.first.get_by_role("checkbox").check()
    expect(page.locator("#chosen")).to_be_visible()
    assert_fits()
    page.get_by_role("button", name="Assign").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_fits()
    page.keyboard.press("Escape")
    page.locator(".passage-found a").first.click()
    expect(page.locator("mark").first).to_be_visible()
    assert_fits()
