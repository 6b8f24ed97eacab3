"""Mails and mailboxes: heads, bodies, and the attachments that can be read in turn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.decode import decode
from reef.knowledge.parsing.draft import Draft
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed

HEADS = ("From", "To", "Cc", "Date", "Subject")
DEPTH_MAX = 3
"""A mail in a mail in a mail; deeper ones are named only."""
_FROM = re.compile(rb"^From [^\n]*\n", re.MULTILINE)

ReadPart = Callable[[Source, str, bytes], ParsedDocument]
"""Reads an attachment: the mail it is in, its name, its bytes."""


def read_mail(source: Source, read_part: ReadPart) -> ParsedDocument:
    """One mail."""
    draft = source.draft()
    message = message_from_bytes(source.data, policy=policy.default)
    if not any(message[head] for head in HEADS):
        raise ParseFailed("corrupt", "The file has none of a mail's heads (From, To, Subject): it is no mail.")
    draft.title = _head(message, "Subject")
    _add_mail(draft, message, source, read_part, 1)
    return draft.finish(mime_type=source.format.mime_type)


def read_mailbox(source: Source, read_part: ReadPart) -> ParsedDocument:
    """All mails of an mbox file, each below a heading that is its subject."""
    draft = source.draft()
    for data in _mails(source.data):
        _add_mail(draft, message_from_bytes(data, policy=policy.default), source, read_part, 1)
    return draft.finish(mime_type=source.format.mime_type)


def _mails(data: bytes) -> Iterator[bytes]:
    found = list(_FROM.finditer(data))
    starts = [one.end() for one in found]
    ends = [*(one.start() for one in found[1:]), len(data)]
    if not starts:
        raise ParseFailed("corrupt", "The file has no line that begins with 'From ': it is no mailbox.")
    for start, end in zip(starts, ends, strict=True):
        yield re.sub(rb"^>(>*From )", rb"\1", data[start:end], flags=re.MULTILINE)


def _head(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message[name] or "").split())
    except (ValueError, IndexError, TypeError, AttributeError):  # the standard library stumbles over some broken heads
        return ""


def _add_mail(draft: Draft, message: EmailMessage, source: Source, read_part: ReadPart, level: int) -> None:
    draft.add(_head(message, "Subject") or "(no subject)", "heading", level)
    draft.add("\n".join(f"{name}: {value}" for name in HEADS if (value := _head(message, name))))
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        _add_part(draft, body, source, read_part, "body.html" if body.get_content_subtype() == "html" else "", level)
    for number, part in enumerate(message.iter_attachments(), start=1):
        name = " ".join((part.get_filename() or f"attachment {number}").split())
        if not source.budget:
            draft.warnings.append(f"Attachments from {name} on were left out: too many.")
            break
        source.budget.pop()
        draft.add(name, "heading", level + 1)
        _add_part(draft, part, source, read_part, name, level + 1)


def _add_part(draft: Draft, part: MIMEPart, source: Source, read_part: ReadPart, name: str, level: int) -> None:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_content()
        if source.depth + level <= DEPTH_MAX:
            _add_mail(draft, inner, source, read_part, level)
        else:
            draft.warnings.append(f"{name}: mails nested this deep are not read.")
        return
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return
    if not name:
        draft.add(_words(data, part.get_content_charset()))
        return
    try:
        draft.add_document(read_part(source, name, data), level)
    except ParseFailed as error:
        draft.warnings.append(f"{name}: {error}")


def _words(data: bytes, charset: str | None) -> str:
    try:
        return data.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return decode(data)[0]
