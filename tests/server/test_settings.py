"""Each setting is a flag, a variable and a key of a file, in this order of precedence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.settings import PREFIX, Settings, read, unknown_variables
from tests.server.cli.commands import run

VALUES: dict[str, tuple[str, object]] = {  # what a variable says, and what a file does
    "models": ("/a", ["/b"]),
    "preload": ("x,y", ["z"]),
    "devices": ("0,1", [2]),
    "provider": ("cpu", "cuda"),
    "log_level": ("debug", "error"),
    "log_format": ("json", "text"),
    "host": ("127.0.0.2", "127.0.0.3"),
    "http_host": ("127.0.0.2", "127.0.0.3"),
    "certificate": ("/a", "/b"),
    "key": ("/a", "/b"),
    "client_ca": ("/a", "/b"),
    "token_file": ("/a", "/b"),
    "default_role": ("read", "admin"),
}
BESIDE = {
    "certificate": {"key": "/k"},
    "key": {"certificate": "/c"},
    "client_ca": {"key": "/k", "certificate": "/c"},
}
"""What a setting is not set without."""
NAMES = [name for name in Settings.model_fields if name != "config"]


def values(name: str) -> tuple[str, object]:
    """A value as a variable and another one as a key of a file; neither is the default."""
    default = Settings.model_fields[name].default
    if isinstance(default, bool):
        return ("false", True) if default else ("true", False)
    return VALUES.get(name, ("7", 9))


def written(path: Path, **keys: Any) -> Path:
    """A file of settings."""
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in keys.items()))
    return path


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture
def help_of_serve() -> str:
    return re.sub(r"\s+", " ", run("serve", "--help").stdout)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_a_flag_with_a_help_a_variable_and_a_key(
    name: str, help_of_serve: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = Settings.model_fields[name]
    assert info.description
    flag = "DIR" if name == "models" else f"--{name.replace('_', '-')}"
    assert re.search(rf"{flag}\b", help_of_serve)
    assert info.description.split(";")[0].removesuffix(".").split(" default")[0] in help_of_serve
    variable, key = values(name)
    config = written(tmp_path / "settings.toml", **{name: key})
    monkeypatch.setenv(f"{PREFIX}CONFIG", str(config))

    def found(**flags: object) -> object:
        return getattr(read({**BESIDE.get(name, {}), **flags}), name)

    assert found() == found(**{name: key})
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", variable)
    assert found() == found(**{name: variable}) != found(**{name: key})
    default = info.default
    given = default if default is not None else key if name in VALUES else 1
    value = found(**{name: given})
    assert (str(value) if isinstance(given, str) else value) == given


def test_a_flag_names_the_file_before_a_variable_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIG", str(written(tmp_path / "one.toml", port=1)))
    assert read({}).port == 1
    assert read({"config": str(written(tmp_path / "two.toml", port=2))}).port == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("prot = 1", r"'prot' is no setting; close ones: port"), ("port = ", r"is no TOML file"),
     ("max-steps = 1", r"close ones: max_steps"), ("[server]\nport = 1", r"'server' is no setting"),
     ("config = 'x'", r"'config' is no setting"), ("port = 70000", r"port in the file of settings: ")],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_what_is_wrong(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        read({"config": path})


def test_a_value_that_cannot_be_used_is_named_by_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument, match=r"^--max-steps: .*greater"):
        read({"max_steps": "0"})
    monkeypatch.setenv(f"{PREFIX}WORKERS", "many")
    with pytest.raises(InvalidArgument, match=r"^ONNX_ATTRIBUTION_WORKERS: .*integer"):
        read({})
    with pytest.raises(InvalidArgument, match=r"cannot be read"):
        read({"config": tmp_path / "none.toml"})


def test_a_variable_that_is_nearly_a_setting_is_told_and_others_are_not() -> None:
    assert unknown_variables(
        ["ONNX_ATTRIBUTION_PROT", "ONNX_ATTRIBUTION_PORT", "ONNX_ATTRIBUTION_TEST_DATA"]
    ) == ["ONNX_ATTRIBUTION_PROT is no setting; close: ONNX_ATTRIBUTION_PORT"]


def test_the_port_of_http_is_free_where_that_of_grpc_is() -> None:
    assert Settings().http_address == ("127.0.0.1", 8080)
    assert Settings(port=0).http_address == ("127.0.0.1", 0)
    assert Settings(port=0, http_port=9).http_address == ("127.0.0.1", 9)
