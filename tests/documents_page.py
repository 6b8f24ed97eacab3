"""The documents page as the tests speak of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect
from whole_product import SIMULATED_QUEUES

_KNOWLEDGE_POOLS = """
  embed: {{queue: embed, devices: [simulated], engine: simulated, model: "simulated:text_ms={text_ms}", streams: 2}}
  index: {{queue: index, devices: [simulated], engine: simulated, model: "simulated:text_ms={text_ms}", streams: 2}}
"""


def knowledge_queues(text_ms: int) -> str:
    """Simulated pools, those of knowledge taking so long for a text."""
    return SIMULATED_QUEUES + _KNOWLEDGE_POOLS.format(text_ms=text_ms)


class DocumentsPage:
    """The documents page, in the words of a person who uses it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.rows = page.locator("#document-rows [role=row]:not(.loading)")
        self.cards = page.locator(".upload")

    def open(self, path: str = "/documents") -> DocumentsPage:
        """Open it and wait until it is filled."""
        self.page.goto(self.url + path)
        self.page.wait_for_selector("html[data-ready]")
        return self

    def row(self, name: str) -> Locator:
        """The row of a document."""
        return self.rows.filter(has=self.page.get_by_role("link", name=name, exact=True))

    def choose(self, *files: Path) -> None:
        """Add files by the button's field."""
        self.page.set_input_files("#field-files", files)

    def choose_folder(self, folder: Path) -> None:
        """Add a folder by the button's field."""
        self.page.set_input_files("#field-folder", folder)

    def drop(self, files: Mapping[str, str]) -> None:
        """Drop files anywhere on the page."""
        self.page.evaluate(
            """(files) => {
              const transfer = new DataTransfer();
              for (const [name, text] of Object.entries(files)) transfer.items.add(new File([text], name));
              for (const type of ["dragenter", "dragover", "drop"]) {
                const event = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(type, event));
              }
            }""",
            dict(files),
        )

    def wait_finished(self, words: str | re.Pattern[str] = "Finished") -> None:
        """Until the newest upload says so."""
        expect(self.cards.first.locator(".upload-words")).to_contain_text(words)

    def get(self, path: str) -> Any:
        """What the API answers."""
        response = self.page.request.get(self.url + path)
        assert response.ok, (response.status, response.text())
        return response.json()

    def send(self, files: Mapping[str, str], stores: str = "shared") -> str:
        """Upload without the page, as a script does; gives the upload's id once all is settled."""
        parts = [("file", (name, text.encode())) for name, text in files.items()]
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            data = {"stores": stores, "paths": list(files)}
            answer = client.post("/api/v1/documents/upload", files=parts, data=data).raise_for_status().json()
            upload_id: str = answer["upload_id"]
            with client.stream("GET", f"/api/v1/uploads/{upload_id}/events") as events:
                for _ in events.iter_lines():
                    pass
        return upload_id

    def heard(self) -> list[str]:
        """What a screen reader was told since `listen`."""
        return list(self.page.evaluate("window.heard ?? []"))

    def listen(self) -> None:
        """Keep what the live regions say from now on."""
        self.page.evaluate(
            """() => {
              window.heard = [];
              for (const id of ["announcer", "announcer-urgent"]) {
                const region = document.getElementById(id);
                new MutationObserver(() => region.textContent && window.heard.push(region.textContent))
                  .observe(region, { childList: true, characterData: true, subtree: true });
              }
            }"""
        )
