"""What can be wrong with a model. Every message says what to do next."""

from __future__ import annotations

from pathlib import Path


class ModelError(RuntimeError):
    """A model cannot be fetched or used."""


class ModelMissing(ModelError):
    """The model is not on this machine; the message names the command that fetches it."""


class BadModelName(ModelError):
    """This names no model; the message says what does."""


class NotLoaded(ModelError):
    """The model is known, but on none of the devices that should let it go."""


class Interrupted(ModelError):
    """The download broke off; another try may go on from what has arrived. The message says whether it is kept."""


class ModelInUse(ModelError):
    """The model cannot be taken away now; the message says what uses it."""


class Damaged(ModelError):
    """A file that is no whole model. `what` says so without its path, for a file that is deleted at once."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}. Delete it and fetch it again.")
        self.what = what
