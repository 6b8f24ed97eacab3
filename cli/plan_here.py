"""Devices like this machine's, for `coral-reef plan --devices here:N`: figures from replies its reef has written."""

from __future__ import annotations

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from cli.errors import Problem
from reef.models import ModelError, ModelStore
from reef.planning.devices import DeviceSet
from reef.planning.measured import TooFew, fit, recent_replies
from reef.planning.models import PlannedModel, UnknownModel, find_model
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import CHAT_POOL, TopologyError, load_topology

ADVICE = "Let a reef answer some chats here first, several at once too, or plan with --devices cpu:CORES."


def with_measured(devices: DeviceSet, settings: Settings) -> DeviceSet:
    """The same devices with this machine's figures. Raises Problem where there are none."""
    try:
        pool = load_topology(settings.queues_file, settings.model).pool(CHAT_POOL)
    except TopologyError as error:
        raise Problem(str(error)) from None
    if not settings.database_url and not (settings.data_dir / "reef.db").is_file():
        raise Problem(f"No reef has run in {settings.data_dir}, so there are no figures of its devices.", ADVICE)
    database = Database(settings.sqlalchemy_url)
    try:
        replies = recent_replies(database, CHAT_POOL)
        curve = fit(replies, pool.streams)
    except TooFew as error:
        raise Problem(str(error), ADVICE) from None
    except SQLAlchemyError as error:
        raise Problem(f"The ledger cannot be read: {error}", "coral-reef doctor says more.") from None
    finally:
        database.dispose()
    return msgspec.structs.replace(devices, measured=curve, measured_model=_model(pool.model, settings))


def _model(name: str, settings: Settings) -> PlannedModel:
    """What wrote the replies: the chat pool's model as it is configured now. Raises Problem."""
    text = name or ModelStore(settings.data_dir).demo.name
    try:
        return find_model(text, (settings.data_dir / "models",))
    except (UnknownModel, ModelError) as error:
        raise Problem(
            f"The size of the chat pool's model {text!r} is not known here: {error}",
            "Name its .gguf file in queues.yaml.",
        ) from None
