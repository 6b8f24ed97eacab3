"""Settings come from the environment in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from reef.settings import RANGES, Settings, SettingsError, load_settings, unknown_variables

ROOT = Path(__file__).parents[3]


def test_defaults_are_for_one_machine() -> None:
    """Without any variable: loopback, the specification's port, SQLite in the data directory."""
    settings = load_settings({})
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 8080, "")
    assert settings.data_dir.is_absolute()
    assert settings.sqlalchemy_url == f"sqlite:///{settings.data_dir / 'reef.db'}"


def test_a_child_process_reads_what_its_parent_had() -> None:
    """Written to an environment and read back, every field is the same."""
    settings = load_settings(
        {"REEF_PORT": "9001", "REEF_REQUIRE_API_KEY": "true", "REEF_MODEL": "a b", "REEF_NODE": "n"}
    )
    assert load_settings(settings.environment()) == settings


@pytest.mark.parametrize(
    ("text", "size"),
    [("32GB", 32 * 10**9), ("8 GiB", 8 * 2**30), ("1.5g", 1_500_000_000), ("500 MB", 5 * 10**8), ("0", 0), ("7b", 7)],
)
def test_sizes_may_have_units(text: str, size: int) -> None:
    """As people write them; a bare number is bytes."""
    assert load_settings({"REEF_MODEL_CACHE_BYTES": text}).model_cache_bytes == size
    assert load_settings({"REEF_MODEL_PRELOAD_BYTES": "-1"}).model_preload_bytes == -1


@pytest.mark.parametrize("text", ["much", "3.5", "1 XB", "GB", "1e9", "nan"])
def test_what_is_no_size_is_refused_in_words(text: str) -> None:
    """With what may stand there."""
    with pytest.raises(
        SettingsError, match=r"REEF_DISK_RESERVE_BYTES is .*; it must be a number of bytes, or one with a unit"
    ):
        load_settings({"REEF_DISK_RESERVE_BYTES": text})


@pytest.mark.parametrize(
    ("host", "reached"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("reef.lan", "reef.lan")],
)
def test_an_address_that_is_shown_can_be_called(host: str, reached: str) -> None:
    """Also where the server listens on every address; none is shown for gRPC where that is off."""
    assert Settings(host=host, grpc_port=8090).grpc_address == f"{reached}:8090"
    assert Settings(host=host).grpc_address == ""


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("REEF_PORT", "http", "'http'; it must be a whole number between 1 and 65535."),
        ("REEF_PORT", "0", "between 1 and 65535"),
        ("REEF_PORT", "70000", "between 1 and 65535"),
        ("REEF_GRPC_PORT", "-1", "between 0 and 65535; 0: no gRPC API"),
        ("REEF_REQUIRE_API_KEY", "perhaps", "true or false"),
        ("REEF_LOG_LEVEL", "loud", "'loud'; it must be debug, info, warning, error or critical."),
        ("REEF_UPLOAD_FILES_MAX", "-5", "a whole number of at least 1"),
        ("REEF_MODEL_PRELOAD_BYTES", "-2", "at least -1"),
        ("REEF_CHROMA_URL", "me:hunter2@alpha:8000", r"'\*\*\*@alpha:8000'; it must be an address .* http://"),
        ("REEF_ALLOWED_ORIGINS", "https://a.example,b.example", "origins with their scheme"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_it_accepts(variable: str, value: str, accepted: str) -> None:
    """The reader learns which variable to change, and to what, in no library's words."""
    with pytest.raises(SettingsError, match=f"{variable} is .*{accepted}"):
        load_settings({variable: value})


def test_every_bad_value_is_told_at_once_and_every_number_has_its_range() -> None:
    """Nobody corrects one variable to learn of the next; a number cannot be added without a range."""
    with pytest.raises(SettingsError) as told:
        load_settings({"REEF_PORT": "x", "REEF_HOST": "h", "REEF_GATEWAY": "y"})
    assert [line.split()[0] for line in str(told.value).splitlines()] == ["REEF_PORT", "REEF_GATEWAY"]
    assert {f.name for f in msgspec.structs.fields(Settings) if f.type is int} == set(RANGES)
    assert load_settings({"REEF_LOG_LEVEL": "WARNING"}).log_level == "warning"


def test_a_name_that_nobody_reads_is_told_with_the_nearest_setting() -> None:
    """A typing error has no effect, so somebody has to say it; what other programs of ours read is none."""
    told = list(unknown_variables({"REEF_PRT": "1", "REEF_ZZZZ": "", "REEF_API_KEY": "k", "REEF_PORT": "1"}))
    assert told == [
        "REEF_PRT is no setting and has no effect. Is REEF_PORT meant?",
        "REEF_ZZZZ is no setting and has no effect.",
    ]


def test_only_settings_reads_the_environment() -> None:
    """No other module of the product touches os.environ or os.getenv."""
    offenders = []
    for folder in ("app", "cli", "reef", "tasks", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "reef" / "settings.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv", "environb")
                if named and isinstance(node.value, ast.Name) and node.value.id == "os":
                    offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []


def test_every_setting_is_documented() -> None:
    """docs/operations.md has a row for each variable."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [f.name for f in msgspec.structs.fields(Settings) if f"`REEF_{f.name.upper()}`" not in text]
    assert missing == []
