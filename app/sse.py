"""Server-sent events: a run's events as a response that a browser can resume by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import Response, request

from app.counts import WebCounts
from app.items import Item
from app.listener import Closed, Hopeless, Listener
from app.refusals import RETRY_SOON_S, Refusal
from app.services import Services
from reef.contracts.events import FINAL

HEARTBEAT_S = 15.0
RETRY_MS = 1000
STREAMS_MAX = 500
SEQ_MAX = 2**53
HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
MEDIA_TYPE = "text/event-stream"


class EventStream:
    """The events of one run as lines of text; ends after its final event. Closing it stops nothing but the telling."""

    def __init__(self, services: Services, listener: Listener) -> None:
        self._counts, self._listener = services.counts, listener

    def __iter__(self) -> Iterator[str]:
        yield f"retry: {RETRY_MS}\n\n"
        try:
            while True:
                told = self._listener.next(HEARTBEAT_S)
                if not told:
                    yield ": heartbeat\n\n"
                for item in told:
                    yield event_lines(item)
                    if isinstance(item.event, FINAL):
                        return
        except (Closed, Hopeless):
            return  # EventSource comes again by itself, with the last id it saw

    def close(self) -> None:
        """The client is gone or has heard it all."""
        if not self._listener.closed:
            self._counts.stream(-1)
            self._listener.close()


def open_listener(services: Services) -> Listener:
    """A listener for a stream or a waiting request. Raises Refusal when there are too many."""
    take_place(services.counts)
    return services.relay.listen()


def take_place(counts: WebCounts) -> None:
    """Count one more stream or waiting request. Raises Refusal when there are too many."""
    if counts.streams_open >= STREAMS_MAX:
        detail = f"{STREAMS_MAX} requests are being streamed or waited for, which is the limit."
        raise Refusal(503, "too_many_streams", "Too many streams", detail, retry_after_s=RETRY_SOON_S)
    counts.stream(1)


def stream(services: Services, begin: Callable[[Listener], None]) -> Response:
    """A response that tells what `begin` makes the listener follow. Raises what `begin` raises."""
    events = EventStream(services, open_listener(services))
    try:
        begin(events._listener)
    except BaseException:
        events.close()
        raise
    return Response(events, mimetype=MEDIA_TYPE, headers=HEADERS)


def resume_after(after: int) -> int:
    """The last event the client saw: its Last-Event-ID, else what its URL says. Raises Refusal."""
    given = request.headers.get("Last-Event-ID", "").strip()
    if not given:
        return after
    if not given.isascii() or not given.isdigit() or int(given) > SEQ_MAX:
        raise Refusal(400, "bad_event_id", "Bad Last-Event-ID", "Last-Event-ID must be the id of an event of this run.")
    return int(given)


def event_lines(item: Item) -> str:
    """An item as a browser's EventSource reads it."""
    event = item.event
    if event is None:
        return ""
    # a reading (seq 0) has no id: it must not move the place to resume from
    number = f"id: {event.seq}\n" if event.seq else ""
    kind = type(event).__struct_config__.tag
    return f"{number}event: {kind}\ndata: {item.text}\n\n"
