"""The operator's page in a real browser, over a reef of eight simulated devices."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chat_page import PHONE, Console, Line, assert_sound
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect
from whole_product import PATIENCE_S, Reef, running_reef

from workers import broker

EIGHT = """
version: 1
pools:
  chat:
    queue: chat
    devices: [simulated:0-7]
    engine: simulated
    model: simulated
    streams: 1
    limits: {waiting_max: 64, deadline_s: 120, attempts_max: 2, lease_s: 5, hang_s: 10, tokens_max: 512, drain_s: 1}
  embed: {queue: embed, engine: simulated}
"""
LONG = "word " * 150
"""The simulated device writes for ten seconds about this."""

ERROR = "cut from https://example.org/a/" + "0123456789" * 20 + " is damaged or cut short and was deleted."
PLAIN = {"where": [], "error": "", "note": "", "size_bytes": 0, "pinned": False, "stays": "", "used_at": None}
MODELS = [
    {"name": "mine", "format": "gguf", "state": "CACHED", "size_bytes": 98_400_000, "used_at": 1.0},
    {
        "name": "busy",
        "format": "gguf",
        "state": "READY",
        "where": ["chat-simulated-0"],
        "used_at": 1.0,
        "stays": "it is",
    },
    {"name": "sees", "format": "tflite", "state": "CACHED", "used_at": 1.0, "pinned": True, "stays": "is pinned"},
    {"name": "cut", "format": "gguf", "state": "FAILED", "error": ERROR},
]


def with_models(page: Page) -> Page:
    """Let the page be told these models; what it wants done with them is refused."""

    def answer(route: Route) -> None:
        if route.request.method == "GET":
            route.fulfill(json={"models": [PLAIN | one for one in MODELS], "cache": {}})
        else:
            route.fulfill(status=409, json={"detail": f"{route.request.method} is refused."})

    page.route("**/api/v1/system/models", answer)
    page.route("**/api/v1/system/models/**", answer)
    return page


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """The product with eight devices."""
    with running_reef(tmp_path_factory.mktemp("reef"), EIGHT, grpc_port=broker.free_port()) as started:
        yield started


class ReefPage:
    """The page, in the words of a person who uses it."""

    def __init__(self, page: Page, reef: Reef) -> None:
        self.page, self.reef = page, reef
        self.tiles = page.locator(".tile")
        self.aloud = page.locator("#announcer-urgent")
        self.toasts = page.locator("#toasts > .toast")

    def open(self) -> ReefPage:
        """Open it and wait until it is filled."""
        self.page.goto(f"{self.reef.url}/reef")
        self.page.wait_for_selector("html[data-ready]")
        return self

    def tile(self, node: str) -> Locator:
        return self.page.locator(f".tile[data-node='{node}']")

    def fact(self, term: str) -> Locator:
        """What is said under this word at the head of the page."""
        return self.page.locator("#facts > div", has=self.page.get_by_text(term, exact=True)).locator("dd")

    def jobs(self, state: str) -> Locator:
        return self.page.locator(f"#jobs-{state} > .job:not(.ended)")

    def confirm(self, button: str) -> None:
        """Answer the question."""
        self.page.locator("#confirm-dialog").get_by_role("button", name=button).click()

    def say(self, message: str) -> str:
        """A turn, over the API; its run's id."""
        with self.reef.client() as client:
            body = {"persona_id": "alice", "message": message, "wait": False}
            run_id: str = client.post("/api/v1/chat", json=body).raise_for_status().json()["run_id"]
        return run_id

    def device(self, node: str) -> dict[str, Any]:
        """What the API says of it."""
        pools = self.reef.get("/api/v1/system/status")["pools"]
        found: dict[str, Any] = next(one for pool in pools for one in pool["devices"] if one["node"] == node)
        return found


@pytest.fixture
def seen(page: Page, reef: Reef) -> ReefPage:
    """The page, open on a desktop."""
    return ReefPage(page, reef).open()


def test_page_reef_shows_devices_queues_and_the_last_hour(seen: ReefPage) -> None:
    """Each device of the API's answer, labelled as simulated; its queue; samples of the sweeper; live."""
    page = seen.page
    expect(seen.tiles).to_have_count(8)
    for device in seen.reef.get("/api/v1/system/status")["pools"][0]["devices"]:
        expect(seen.tile(device["node"])).to_contain_text("simulated")
        expect(seen.tile(device["node"])).to_have_attribute("aria-label", re.compile("simulated, Ready.*0 of 1 stream"))
    row = page.locator("#queue-rows tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("0 of 64")
    expect(page.locator("#queues-idle")).to_have_text("No device serves: embed.")
    expect(page.locator("#freshness")).to_contain_text("Live")
    expect(page.locator("#chart-busy svg")).to_have_attribute("aria-label", re.compile("in the last hour: now 0 of 8"))
    model = page.locator("#model-rows tr", has_text="smollm2-135m-instruct")
    expect(model).to_contain_text("Apache-2.0")
    expect(model.get_by_role("button", name="Load smollm2-135m-instruct", exact=True)).to_be_enabled()
    page.goto(f"{seen.reef.url}/status")
    expect(page).to_have_url(f"{seen.reef.url}/reef")


def test_page_reef_tells_of_the_gateway(seen: ReefPage, console: Console) -> None:
    """Its state in words, the sockets that are open, where gRPC is; a gateway that is down is trouble for both."""
    gateway, grpc = seen.fact("Gateway"), seen.fact("gRPC")
    expect(gateway).to_have_text(re.compile(r"^In order\d open sockets?$"))
    port = f"Port {seen.reef.settings.grpc_port}"
    expect(grpc).to_have_text(f"{port}127.0.0.1")
    page = seen.page

    def down(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"gateway": "down", "sockets_open": 2})

    page.route("**/api/v1/system/status", down)
    seen.open()
    expect(gateway).to_have_text("Down2 open sockets")
    expect(grpc).to_have_text(f"Down{port}")
    expect(page.locator("#facts .trouble-words")).to_have_count(2)
    console.allow("Failed to load resource")
    page.route("**/api/v1/system/status", lambda route: route.abort())
    seen.open()
    expect(gateway).to_contain_text("Not known")


def test_page_reef_cancels_a_running_job(seen: ReefPage) -> None:
    """It appears where it runs; after a question it is cancelled, and its device is free again."""
    run_id = seen.say(LONG)
    row = seen.jobs("running")
    expect(row).to_contain_text("Reply of Alice")
    node = seen.reef.get("/api/v1/system/jobs?state=running")["jobs"][0]["node"]
    expect(row).to_contain_text(node)
    expect(seen.tile(node)).to_contain_text("Busy")
    row.get_by_role("button", name="Stop").click()
    seen.confirm("Cancel")
    expect(row).to_have_count(1)
    assert seen.reef.get(f"/api/v1/runs/{run_id}")["state"] == "running", "asking is not doing"
    row.get_by_role("button", name="Stop").click()
    seen.confirm("Stop this job")
    expect(row).to_have_count(0)
    assert seen.reef.get(f"/api/v1/runs/{run_id}")["state"] == "cancelled"
    expect(seen.tile(node)).to_contain_text("Ready")
    expect(seen.toasts).to_have_text("Stopped: Reply of Alice.")
    expect(seen.toasts).to_be_in_viewport(ratio=1)


def test_page_reef_tries_a_dead_job_again_and_discards_it(seen: ReefPage) -> None:
    """It is listed with its reason; tried again it runs (and fails) again; discarded it is gone for good."""
    run_id = seen.say("!fail")
    row = seen.jobs("dead")
    expect(row).to_contain_text("The simulated device failed, as it was told to.")
    ended = seen.reef.get(f"/api/v1/runs/{run_id}")["finished_at"]
    with seen.page.expect_response(f"**/jobs/{run_id}/retry") as answer:
        row.get_by_role("button", name="Try again").click()
    assert answer.value.status == 202
    seen.page.mouse.move(0, 0)
    expect(row.get_by_role("button", name="Try again")).to_be_enabled()
    seen.page.wait_for_function(
        """async ([url, ended]) => (await (await fetch(url)).json()).finished_at > ended""",
        arg=[f"{seen.reef.url}/api/v1/runs/{run_id}", ended],
    )
    row.get_by_role("button", name="Discard").click()
    seen.confirm("Discard")
    expect(seen.page.locator("#jobs-dead-none")).to_have_text("Nothing was given up.")
    with seen.reef.client() as client:
        assert client.get(f"/api/v1/runs/{run_id}").status_code == 404


def test_page_reef_offers_what_can_be_done_with_a_model(page: Page, reef: Reef, console: Console) -> None:
    """Only pools that can take it, only models that may go. What is refused is read where one looks: in the dialog,
    or at the foot of the window, where it moves nothing and stays until it is closed."""
    console.allow("409")
    seen = ReefPage(with_models(page), reef).open()
    expect(page.locator("#model-rows tr").first).to_contain_text("98.4 MB")
    offered = [button.get_attribute("aria-label") for button in page.locator("#model-rows button:visible").all()]
    assert [str(one) for one in offered] == [
        "Load mine", "Pin mine", "Remove mine", "Load busy", "Unload busy", "Pin busy", "Unpin sees", "Fetch again cut",
        "Remove cut",
    ]  # fmt: skip
    page.get_by_role("button", name="Load mine").click()
    dialog = page.locator("#model-dialog")
    expect(dialog.get_by_label("Pool")).to_be_focused()
    expect(dialog.get_by_label("Pool").locator("option")).to_have_text(["chat"])
    dialog.get_by_role("button", name="Load", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("POST is refused.")
    page.keyboard.press("Escape")
    pin = page.get_by_role("button", name="Pin mine", exact=True)
    place = pin.bounding_box()
    pin.click()
    expect(seen.toasts).to_have_text("POST is refused.")
    expect(seen.toasts).to_be_in_viewport(ratio=1)
    expect(seen.aloud).to_have_text("POST is refused.")
    assert pin.bounding_box() == place
    assert_sound(page)
    seen.toasts.get_by_role("button", name="Close this message").press("Enter")
    expect(pin).to_be_focused()
    page.get_by_role("button", name="Remove cut").click()
    seen.confirm("Remove")
    expect(seen.toasts).to_have_text("DELETE is refused.")
    page.keyboard.press("Escape")
    expect(seen.toasts).to_have_count(0)


def test_page_reef_fetches_a_model_from_an_address(page: Page, reef: Reef) -> None:
    """It is called as its file until another name is given; its pool follows its format; the answer is shown."""
    seen = ReefPage(with_models(page), reef).open()
    sent: list[Any] = []

    def take(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(status=202, json={"note": "big.q4 is fetched first"})

    page.route("**/models/load", take)
    page.get_by_role("button", name="Fetch a model").click()
    dialog, source = page.locator("#model-dialog"), "https://example.org/x/Big.Q4.gguf?download=true"
    dialog.get_by_label("Address").fill("https://example.org/x/Sees.tflite")
    expect(dialog).to_contain_text("No pool with a device can take a model of this format.")
    dialog.get_by_label("Address").fill(source)
    dialog.get_by_role("button", name="Fetch and load").click()
    expect(seen.toasts).to_have_text("big.q4 is fetched first.")
    assert sent == [{"model": "big.q4", "pool": "chat", "source": source, "sha256": ""}]


def test_page_reef_tells_a_fault_and_its_end(seen: ReefPage) -> None:
    """kill -9 of a worker, again and again: it is said aloud, its tile shows it, the device comes back by itself."""
    node, killed = "chat-simulated-3", 0
    tile = seen.tile(node)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        pid = seen.reef.processes.pids().get(node, killed)
        if pid != killed:  # each restart waits longer than the one before, until a look finds no worker
            os.kill(pid, signal.SIGKILL)
            killed = pid
        if "down" in str(tile.get_attribute("class")).split():
            break
    expect(tile).to_contain_text("Not running")
    expect(seen.aloud).to_contain_text(node)
    expect(tile).to_contain_text("Ready")
    assert seen.device(node)["pid"] != killed
    regions = seen.page.locator("#parts [aria-live], #parts [role=status], #parts [role=alert]")
    expect(regions).to_have_count(0)  # figures that change every second are not read out


def test_page_reef_decides_about_a_device(seen: ReefPage) -> None:
    """Another model for one device, after a question; the decision is shown as the operator's and can be taken back."""
    node, page = "chat-simulated-5", seen.page
    dialog = page.get_by_role("dialog", name=node)
    seen.tile(node).click()
    expect(dialog.get_by_label("Pool")).to_be_disabled()
    dialog.get_by_label("Model").fill("simulated:token_ms=7")
    dialog.get_by_role("button", name="Decide").click()
    expect(page.locator("#confirm-text")).to_contain_text("Nothing runs on it now.")
    seen.confirm("Decide")
    expect(dialog).to_be_hidden()
    assert seen.device(node)["place"]["model"] == "simulated:token_ms=7"
    seen.tile(node).click()
    expect(dialog).to_contain_text("An operator let it serve chat with simulated:token_ms=7.")
    dialog.get_by_role("button", name="Take back the decision").click()
    seen.confirm("Take it back")
    expect(dialog).to_be_hidden()
    assert seen.device(node)["place"] is None


def test_page_reef_works_by_keyboard(seen: ReefPage) -> None:
    """Skip to the devices, move among them, open one, come back to it; find one by name."""
    page, keys = seen.page, seen.page.keyboard
    page.locator("#skip-devices").focus()
    keys.press("Enter")
    expect(seen.tiles.first).to_be_focused()
    keys.press("ArrowRight")
    expect(seen.tiles.nth(1)).to_be_focused()
    assert page.evaluate("pageChecks.focusShown()") == ""
    keys.press("End")
    expect(seen.tiles.last).to_be_focused()
    keys.press("ArrowUp")
    above = page.evaluate("document.activeElement.dataset.node")
    assert above not in ("", "chat-simulated-7")
    keys.press("Enter")
    expect(page.get_by_role("dialog", name=above)).to_be_visible()
    keys.press("Escape")
    expect(seen.tile(above)).to_be_focused()
    page.get_by_label("Find a device").fill("simulated-2")
    expect(seen.tiles).to_have_count(1)
    page.get_by_label("Which devices").select_option("trouble")
    expect(page.locator("#devices-none")).to_contain_text("No device fits.")
    page.get_by_role("button", name="Show all devices").click()
    expect(seen.tiles).to_have_count(8)


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark", **PHONE}], ids=["desk", "phone"]
)
def test_page_reef_is_legible_and_named(
    options: dict[str, Any], new_context: Callable[..., BrowserContext], reef: Reef, console: Console
) -> None:
    """Names, order of headings, contrast and targets hold, tiles small and large; nothing is wider than the screen."""
    console.allow("404")
    page = with_models(new_context(**options).new_page())
    seen = ReefPage(page, reef).open()
    page.wait_for_selector("#model-rows tr")
    expect(page.locator("#freshness")).to_contain_text("Live")
    assert_sound(page)
    page.get_by_label("Size of the tiles").select_option("compact")
    expect(seen.tiles.first).to_contain_text("simulated")
    assert_sound(page)
    assert page.evaluate("pageChecks.smallTargets()") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    wider = "[...document.querySelectorAll('.table')].filter((one) => one.scrollWidth > one.clientWidth)"
    assert page.evaluate(f"{wider}.length") == 0, "a table cuts something off"
    squeezed = "[...document.querySelectorAll('#model-rows th')].filter((one) => one.clientHeight > 80)"
    assert page.evaluate(f"{squeezed}.length") == 0, "an error takes the other columns' room"
    seen.tiles.first.click()
    assert_sound(page)


def test_page_reef_says_when_it_hears_nothing_and_asks_where_it_cannot_listen(
    page: Page, reef: Reef, console: Console
) -> None:
    """No line at all: what was known stays, with its time. No WebSocket, but HTTP: it goes on by asking."""
    console.allow("404|Failed to load resource|WebSocket")
    line = Line(page)
    seen = ReefPage(page, reef).open()
    page.route("**/healthz", lambda route: route.abort())
    line.closed = True
    line.cut()
    expect(page.locator("#banner")).to_have_text(
        re.compile(r"^Connection lost, trying again… Showing what was known at \d\d:\d\d:\d\d")
    )
    expect(seen.tiles).to_have_count(8)
    page.unroute("**/healthz")
    expect(page.locator("#banner")).to_be_hidden()
    run_id = seen.say(LONG)
    expect(seen.jobs("running")).to_have_count(1)
    with reef.client() as client:
        client.post(f"/api/v1/system/jobs/{run_id}/cancel").raise_for_status()
    expect(seen.jobs("running")).to_have_count(0)
