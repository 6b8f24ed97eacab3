"""The endpoints of the model manager; part of the table in routes.py."""

from __future__ import annotations

from app.api import models
from app.model_desk import Loading, Unloaded
from app.web import Route
from reef.models.states import ModelsView

MODELS = "/api/v1/system/models"

MODEL_ROUTES: tuple[Route, ...] = (
    Route(method="GET", path=MODELS, handler=models.list_all, answers={200: ModelsView}, tag="system"),
    Route(
        method="POST",
        path=f"{MODELS}/load",
        handler=models.load,
        body=models.LoadRequest,
        answers={202: Loading},
        errors=(404, 409, 422, 429),
        tag="system",
    ),
    Route(
        method="POST",
        path=f"{MODELS}/unload",
        handler=models.unload,
        body=models.UnloadRequest,
        answers={202: Unloaded},
        errors=(404, 409, 422),
        tag="system",
    ),
    Route(
        method="DELETE",
        path=f"{MODELS}/{{name}}",
        handler=models.remove,
        answers={204: None},
        errors=(404, 409),
        tag="system",
    ),
    Route(
        method="POST",
        path=f"{MODELS}/{{name}}/pin",
        handler=models.pin,
        body=models.PinRequest,
        answers={204: None},
        errors=(404, 422),
        tag="system",
    ),
)
