"""The table of the endpoints of the reef itself: status, jobs, devices, health, metrics. Part of app/api/routes.py."""

from __future__ import annotations

from typing import Any

from app.api import devices, jobs, status, system
from app.api.shapes import (
    DeadJob,
    DeadJobs,
    Health,
    HistoryQuery,
    JobList,
    JobsQuery,
    PlaceRequest,
    Readiness,
    SampleList,
)
from app.guard import Login
from app.web import Route
from reef.contracts.system import JobView, SystemStatus
from reef.placement.model import Place

V1 = "/api/v1"
PLAIN = "text/plain"
JOB = f"{V1}/system/jobs/{{job_id}}"
PLACE = f"{V1}/system/devices/{{node}}/place"

SYSTEM_ROUTES: tuple[Route, ...] = (
    Route(method="GET", path=f"{V1}/system/status", handler=status.status, answers={200: SystemStatus}, tag="system"),
    Route(
        method="GET",
        path=f"{V1}/system/history",
        handler=status.history,
        query=HistoryQuery,
        answers={200: SampleList},
        tag="system",
    ),
    Route(
        method="GET",
        path=f"{V1}/system/jobs",
        handler=jobs.list_some,
        query=JobsQuery,
        answers={200: JobList},
        errors=(404,),
        tag="system",
    ),
    Route(
        method="POST",
        path=f"{JOB}/cancel",
        handler=jobs.cancel,
        answers={200: JobView},
        errors=(404,),
        tag="system",
    ),
    Route(
        method="POST",
        path=f"{JOB}/retry",
        handler=jobs.retry,
        answers={202: JobView},
        errors=(404, 409),
        tag="system",
    ),
    Route(
        method="DELETE",
        path=JOB,
        handler=jobs.discard,
        answers={204: None},
        errors=(404, 409),
        tag="system",
    ),
    Route(
        method="POST",
        path=PLACE,
        handler=devices.place,
        body=PlaceRequest,
        answers={202: Place},
        errors=(404, 409, 422),
        tag="system",
    ),
    Route(
        method="DELETE",
        path=PLACE,
        handler=devices.forget_place,
        answers={204: None},
        errors=(404, 409),
        tag="system",
    ),
    Route(method="GET", path=f"{V1}/system/dead", handler=jobs.dead, answers={200: DeadJobs}, tag="system"),
    Route(
        method="POST",
        path=f"{V1}/system/dead/{{job_id}}/retry",
        handler=jobs.retry_dead,
        answers={202: DeadJob},
        errors=(404, 409),
        tag="system",
    ),
    Route(
        method="POST",
        path=f"{V1}/login",
        handler=system.login,
        body=Login,
        answers={204: None},
        errors=(401,),
        tag="system",
    ),
    Route(method="GET", path=f"{V1}/metrics", handler=system.metrics, answers={200: PLAIN}, tag="system"),
    Route(method="GET", path="/metrics", handler=system.metrics, answers={200: PLAIN}, tag="system"),
    Route(method="GET", path="/healthz", handler=system.healthz, answers={200: Health}, tag="system"),
    Route(method="GET", path="/readyz", handler=system.readyz, answers={200: Readiness, 503: Readiness}, tag="system"),
    Route(
        method="GET",
        path=f"{V1}/openapi.json",
        handler=system.openapi,
        answers={200: dict[str, Any]},
        tag="system",
    ),
)
