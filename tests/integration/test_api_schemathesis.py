"""Schemathesis reads the served OpenAPI document and sends what it can think of, right and wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.api.routes import ROUTES

if TYPE_CHECKING:
    from conftest import Web
    from played_device import Answerer

EXAMPLES = 12
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def session() -> Any:
    """One connection for all requests."""
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_no_request_breaks_it(
    web: Web, answering: Answerer, session: requests.Session, route: Any, mode: GenerationMode
) -> None:
    """No 5xx, no undocumented status, media type or shape; unsupported methods are refused as such."""
    schema = schemathesis.openapi.from_url(f"{web.url}/api/v1/openapi.json")
    operation = schema[route.path][route.method]
    web.stage.report()
    if mode is GenerationMode.NEGATIVE and not operation.body and not route.query and "{" not in route.path:
        return  # there is nothing about it that could be wrong

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=web.url, session=session, checks=CHECKS, timeout=15)

    send()
