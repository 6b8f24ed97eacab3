"""One file on its way through the readers: its bytes, what it is, and the limits that hold for it."""

from __future__ import annotations

import msgspec

from reef.knowledge.formats import FORMATS, Format
from reef.knowledge.parsing.draft import Draft
from reef.knowledge.parsing.limits import ParseLimits


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was found fit to be read."""

    name: str
    data: bytes
    extension: str
    """What it really is: a key of reef.knowledge.formats.FORMATS."""
    limits: ParseLimits
    ocr_languages: str = "eng"
    """As tesseract spells them: `eng+deu`."""
    depth: int = 0
    """0 for a file, more for what is attached to one."""
    budget: list[int] = msgspec.field(default_factory=list)
    """How many attachments may still be read, shared by all that is attached to one file."""

    @property
    def format(self) -> Format:
        """Its line in the table of formats."""
        return FORMATS[self.extension]

    def draft(self) -> Draft:
        """A document to be filled from it."""
        return Draft(self.limits.characters_max)
