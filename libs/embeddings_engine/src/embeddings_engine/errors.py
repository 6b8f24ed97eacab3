"""What can go wrong, by what a caller can do about it. Every message says what was wrong and what to do next."""

from __future__ import annotations


class EmbeddingsError(RuntimeError):
    """Anything this library raises on purpose."""


class ModelUnavailable(EmbeddingsError):
    """The model's files are missing, damaged or of a kind that is not supported."""


class BackendUnavailable(EmbeddingsError):
    """A runtime is not installed, or the device it needs is not there."""


class SelfTestFailed(EmbeddingsError):
    """The runtime computes this model wrongly: its vectors must not be used."""


class BackendFailed(EmbeddingsError):
    """One call failed although the model is loaded; another try may work."""


class RequestRefused(BackendFailed):
    """The service will never accept this request (bad key, unknown model, text too long): no retry."""


class RateLimited(BackendFailed):
    """The service wants fewer requests. `retry_after_s` is what it asked for, None when it did not say."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Cancelled(EmbeddingsError):
    """The caller's cancel event was set; the work ended between two batches."""


class Closed(EmbeddingsError):
    """The engine was closed while this call waited, or before it came."""
