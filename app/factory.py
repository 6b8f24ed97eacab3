"""Puts the web application together. Importing this module loads no model library and connects to nothing."""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, request

from app import services as parts
from app import sockets, web
from app.api.routes import ROUTES
from app.guard import Guard
from app.outside import outside
from reef.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> Flask:
    """The WSGI application of these settings. Raises TopologyError where queues.yaml cannot be used."""
    app = Flask("coral_reef", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = web.BODY_BYTES_MAX
    reef = parts.build(settings, outside=outside)
    app.extensions[parts.EXTENSION] = reef
    Guard(reef).install(app)
    web.register(app, ROUTES)
    sockets.install(app)
    _install_pages(app)
    app.register_error_handler(Exception, web.answer_failure)
    app.after_request(_count)
    return app


def _install_pages(app: Flask) -> None:
    try:
        from app.ui.pages import ui
    except ImportError as error:
        log.warning("there are no pages: %s", error)
        return
    app.register_blueprint(ui)


def _count(response: Response) -> Response:
    route = str(request.url_rule.rule) if request.url_rule else "unmatched"
    # a WebSocket comes by here when it ends: its life is no time to answer
    took_s = None if route == sockets.PATH else time.monotonic() - g.get("began_s", time.monotonic())
    parts.services().counts.answered(route, request.method, response.status_code, took_s)
    return response
