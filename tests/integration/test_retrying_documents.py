"""Which failed documents can be tried again: those whose reason may pass."""

from __future__ import annotations

import pytest
from workshop import Workshop

from reef.knowledge.documents import get_document, retry_document
from reef.knowledge.model import FAILURE_CODES, RETRYABLE_CODES
from reef.knowledge.uploads import UploadClosed


def test_what_lies_in_the_bytes_is_not_tried_again(shop: Workshop) -> None:
    """The empty one and the one of no known kind are refused in words, the other one is tried; the same by upload."""
    upload_id = shop.add({"empty.txt": "", "picture.bin": b"\xff\xfe\x00", "bad.txt": "!bad"})
    shop.run_all()
    failed = {document.name: document for document in shop.documents(state="failed")}
    may_pass = {name: document.retryable for name, document in failed.items()}
    assert may_pass == {"empty.txt": False, "picture.bin": False, "bad.txt": True}
    for name in ("empty.txt", "picture.bin"):
        with pytest.raises(UploadClosed, match="does not help"):
            retry_document(shop.flow, failed[name].id)
    shop.uploads.retry(upload_id)
    assert shop.states() == {"empty.txt": "failed", "picture.bin": "failed", "bad.txt": "parsing"}
    assert not get_document(shop.flow, failed["bad.txt"].id).retryable


def test_an_upload_of_which_nothing_can_pass_says_so(shop: Workshop) -> None:
    """It stays done, and the words lead to what helps."""
    upload_id = shop.add({"empty.txt": ""})
    shop.run_all()
    with pytest.raises(UploadClosed, match="Upload them anew"):
        shop.uploads.retry(upload_id)
    assert shop.uploads.get(upload_id).state == "done"


def test_codes_that_may_pass_are_codes() -> None:
    """The table names no code that is never given, and leaves out what is in the bytes."""
    assert set(FAILURE_CODES) - RETRYABLE_CODES == {
        "empty", "unsupported", "encrypted", "too_large", "too_many_pages",
    }  # fmt: skip
    assert set(FAILURE_CODES) > RETRYABLE_CODES
