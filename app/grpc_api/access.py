"""Who may call, and what a refusal is in gRPC: one interceptor for every call of every service.

The rule is that of HTTP (app/guard.py). A browser cannot call us from a page of another site: it speaks no HTTP/2
without TLS, so there is no Origin and no Host to check.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from sqlalchemy.exc import SQLAlchemyError

from app.grpc_api.hosting import Host
from app.grpc_api.limits import WRITE_TIMEOUT_S
from app.guard import Keys, bearer_of, key_needed, needs_key
from app.refusals import Refusal, refusal_of

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[..., Awaitable[Any]]
Count = Callable[[str], None]
"""Called with how a call ended."""
OWN = "/coral_reef.v1."
OPEN = "/grpc.health.v1.Health/"
"""Needs no key, as /readyz needs none."""
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.FAILED_PRECONDITION,
    410: StatusCode.NOT_FOUND,
    413: StatusCode.RESOURCE_EXHAUSTED,
    422: StatusCode.INVALID_ARGUMENT,
    423: StatusCode.ABORTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    502: StatusCode.ABORTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
"""Statuses of refusals; any other is INTERNAL."""


def status_of(refusal: Refusal) -> StatusCode:
    """The status of a refusal."""
    return CODES.get(refusal.status, StatusCode.INTERNAL)


def metadata_of(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    """What a refusal says to programs, in the trailing metadata."""
    said = [("code", refusal.code)]
    if refusal.retry_after_s is not None:
        said.append(("retry-after", str(max(1, math.ceil(refusal.retry_after_s)))))
    if run_id := refusal.members.get("run_id"):
        said.append(("run-id", run_id))
    said += [("field", error.field) for error in refusal.errors if error.field.isascii()]
    return tuple(said)


class Doorman(grpc.aio.ServerInterceptor):
    """Asks for the key, and turns what a service raises into a status."""

    def __init__(self, host: Host, address: str) -> None:
        """`address`: where the server is bound."""
        self._host = host
        self._needs_key = needs_key(host.services.settings, address)
        self._keys = Keys(host.services.database)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """gRPC's."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(OPEN):
            return handler
        refusal = await self._refusal(handler_call_details)
        if refusal is None and not method.startswith(OWN):
            return handler
        return _guarded(handler, refusal, lambda code: self._host.services.counts.called(method, code))

    async def _refusal(self, details: grpc.HandlerCallDetails) -> Refusal | None:
        if not self._needs_key:
            return None
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        key = bearer_of(given if isinstance(given, str) else "")
        try:
            if key and (self._keys.remembers(key) or await self._host.read(self._keys.accepts, key)):
                return None
        except SQLAlchemyError as error:
            return refusal_of(error)
        return key_needed()


def _guarded(handler: Any, refusal: Refusal | None, count: Count) -> grpc.RpcMethodHandler[Any, Any]:
    """The same method, behind the door."""
    if handler.response_streaming:
        make, behaviour = grpc.unary_stream_rpc_method_handler, _told(handler.unary_stream, refusal, count)
    elif handler.request_streaming:
        make, behaviour = grpc.stream_unary_rpc_method_handler, _answered(handler.stream_unary, refusal, count)
    else:
        make, behaviour = grpc.unary_unary_rpc_method_handler, _answered(handler.unary_unary, refusal, count)
    guarded: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour, _reading(handler.request_deserializer), handler.response_serializer
    )
    return guarded


def _reading(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Gives a refusal for bytes that are no message: raised here, it would be a stack trace for whoever sends some."""

    def request_of(raw: bytes) -> Any:
        try:
            return read(raw)
        except DecodeError as error:
            return Refusal(400, "bad_message", "Bad message", f"{error}.")

    return request_of


def _answered(method: Method, refusal: Refusal | None, count: Count) -> Method:
    async def behaviour(request: Any, context: Context) -> Any:
        with _counted(context, count):
            try:
                return await method(_checked(request, refusal), context)
            except Exception as error:  # noqa: BLE001 - refusal_of logs what it does not know
                return await _refuse(context, error)

    return behaviour


def _told(method: Callable[..., AsyncGenerator[Any]], refusal: Refusal | None, count: Count) -> Method:
    async def behaviour(request: Any, context: Context) -> None:
        with _counted(context, count):
            try:
                async with aclosing(method(_checked(request, refusal), context)) as messages:
                    async for message in messages:
                        await _send(context, message)
            except Exception as error:  # noqa: BLE001 - refusal_of logs what it does not know
                await _refuse(context, error)

    return behaviour


@contextmanager
def _counted(context: Context, count: Count) -> Iterator[None]:
    outcome = StatusCode.CANCELLED
    try:
        yield
        outcome = StatusCode.OK
    except grpc.aio.AbortError:
        outcome = context.code()
        raise
    finally:
        count(outcome.name)


def _checked(request: Any, refusal: Refusal | None) -> Any:
    """The request, of which each message may be a refusal. Raises Refusal."""
    if refusal is not None:
        raise refusal
    if isinstance(request, Refusal):
        raise request
    return _each(request) if isinstance(request, AsyncIterator) else request


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request, None)


async def _send(context: Context, message: Any) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await context.write(message)
    except TimeoutError:
        detail = f"You took nothing for {WRITE_TIMEOUT_S:.0f} s; resume where you were."
        raise Refusal(503, "slow_reader", "Slow reader", detail) from None


async def _refuse(context: Context, error: Exception) -> None:
    if context.done():
        return  # the client is gone
    refusal = refusal_of(error)
    await context.abort(status_of(refusal), refusal.detail, metadata_of(refusal))
