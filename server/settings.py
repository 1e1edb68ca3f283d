"""What can be set: by a flag of `serve`, a variable ONNX_ATTRIBUTION_*, or a key of a TOML file; one model for all."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, SettingsConfigDict
from pydantic_settings.sources import PydanticBaseSettingsSource

from onnx_attribution.errors import InvalidArgument

__all__ = ["PREFIX", "Settings", "is_loopback", "read", "unknown_variables"]

PREFIX = "ONNX_ATTRIBUTION_"


class Settings(BaseSettings):
    """Limits and places; times in seconds, sizes in MiB. Zero threads: as many as the container may use."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    config: Path | None = Field(default=None, description="A TOML file with settings by these names.")
    models: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders with NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx."
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Models, or globs, to load and run once before the server says that it serves.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8081, ge=0, le=65535, description="Port of gRPC; 0: a free one.")
    allow_insecure: bool = Field(
        default=False, description="Listen where other machines can reach it, without encryption."
    )
    certificate: Path | None = Field(
        default=None, description="Encrypt: the server's certificate, with --key."
    )
    key: Path | None = Field(default=None, description="The certificate's key.")
    client_ca: Path | None = Field(
        default=None, description="Let in only who has a certificate of this authority."
    )
    token_file: Path | None = Field(
        default=None, description="Let in only callers of this file; `token` adds them to it."
    )
    default_role: Literal["read", "attribute", "admin"] | None = Field(
        default=None,
        description="What callers may do without a token; default admin on loopback, else attribute.",
    )
    http: bool = Field(default=True, description="Answer /livez, /readyz and /metrics over HTTP.")
    kserve: bool = Field(
        default=False, description="Answer KServe's protocols, versions 1 and 2, over HTTP as well."
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Address of HTTP. What it tells is not secret, but for the names of models.",
    )
    http_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of HTTP; 0: a free one; default 8080, or a free one if the port of gRPC is.",
    )

    provider: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to run.")
    threads: int = Field(default=0, ge=0, description="Threads of one run; 0: as many as there are cores.")
    devices: Annotated[tuple[int, ...], NoDecode] = Field(
        default=(), description="A CUDA device; runs are spread over several. Without: the first."
    )
    tf32: bool = Field(
        default=False, description="Let CUDA round the factors of float32 products: faster, less exact."
    )
    memory_budget_mib: int = Field(default=2048, ge=1, description="MiB that the rows of one run may take.")

    most_loaded: int = Field(
        default=16,
        ge=0,
        description="Models that stay loaded, those that were used last; 0: all.",
    )
    watch: bool = Field(
        default=False, description="Serve what comes into the folders, and no more what goes."
    )
    isolate: bool = Field(
        default=False,
        description="Run the models in a process of its own, whose end does not end the server.",
    )
    uploads: bool = Field(default=False, description="Take models from clients into the first folder.")
    max_upload_mib: int = Field(default=2048, ge=1, description="MiB of an upload at most.")

    max_request_mib: int = Field(default=64, ge=1, le=512, description="MiB of a request at most.")
    max_response_mib: float = Field(
        default=3, gt=0, le=512, description="MiB of an answer at most; a stream comes in parts of 1 MiB."
    )
    max_samples: int = Field(default=256, ge=1, description="Samples of a request at most.")
    max_steps: int = Field(default=16384, ge=1, description="Steps of a path at most.")

    workers: int = Field(default=2, ge=1, description="Requests that are computed at once.")
    max_unary: int = Field(default=64, ge=1, description="Calls that run or wait at once; more are refused.")
    max_streams: int = Field(default=32, ge=1, description="Streams at once; more are refused.")
    max_audits: int = Field(default=8, ge=1, description="Audits at once; more are refused.")
    audit_window: int = Field(
        default=16, ge=1, description="Items of an audit that may be unanswered at once."
    )
    max_per_caller: int = Field(
        default=8, ge=0, description="Calls of one caller at once; more are refused; 0: no limit."
    )
    unary_seconds: float = Field(default=60, gt=0, description="Time of a call that states no deadline.")
    stream_seconds: float = Field(default=600, gt=0, description="Time of a stream that states no deadline.")
    max_seconds: float = Field(default=3600, gt=0, description="The longest deadline that a call may state.")
    heartbeat_seconds: float = Field(
        default=15, gt=0, description="After so long in silence a stream repeats its progress."
    )
    audit_idle_seconds: float = Field(
        default=120, gt=0, description="An audit ends whose client has sent nothing for so long."
    )

    connection_seconds: float = Field(
        default=0,
        ge=0,
        description="Connections end after about so long, once their calls have, so that clients that balance see new "
        "servers; 0: never.",
    )
    lame_duck_seconds: float | None = Field(
        default=None,
        ge=0,
        description="How long a server that ends still takes calls; default 3, on loopback 0.",
    )
    grace_seconds: float = Field(
        default=30, ge=0, description="How long calls that run may take to end, before they are ended."
    )

    hung_seconds: float = Field(
        default=10,
        gt=0,
        description="A run that goes on for so long after its request ended makes the server unready.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged; info has a line for every call."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Log in text or JSON lines.")
    traces: bool = Field(
        default=False,
        description="Send OpenTelemetry spans, as the OTEL_* variables say; needs the extra otel.",
    )

    @property
    def address(self) -> str:
        """What the server binds to."""
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{host}:{self.port}"

    @property
    def lame_duck(self) -> float:
        """How long a draining server still takes calls: load balancers need to notice, a loopback client does not."""
        if self.lame_duck_seconds is None:
            return 0.0 if is_loopback(self.host) else 3.0
        return self.lame_duck_seconds

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, models: object) -> object:
        """A variable names several folders as PATH does."""
        found = tuple(filter(None, models.split(os.pathsep))) if isinstance(models, str) else models
        # no message may hold a relative path, which could not be told from a word
        return tuple(Path(one).absolute() for one in found) if isinstance(found, tuple | list) else found

    @field_validator("devices", "preload", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """A variable names several as `0,1`."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of HTTP."""
        port = self.http_port
        return self.http_host.strip("[]"), (8080 if self.port else 0) if port is None else port

    @model_validator(mode="after")
    def _require_both_halves(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are set together, or neither is")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca is for encrypted connections: set certificate and key, too")
        return self

    @model_validator(mode="after")
    def _refuse_open_plaintext(self) -> Self:
        if not is_loopback(self.host) and self.certificate is None and not self.allow_insecure:
            seen = "calls and their tokens" if self.token_file is not None else "calls"
            raise ValueError(
                f"{self.host!r} can be reached from other machines, and {seen} are not encrypted; set certificate and "
                "key, listen on 127.0.0.1 or allow it with allow_insecure"
            )
        if self.kserve and not is_loopback(self.http_host) and not self.allow_insecure:
            raise ValueError(
                f"{self.http_host!r} can be reached from other machines, and calls of KServe's protocols are not "
                "encrypted; let http_host be 127.0.0.1 or allow it with allow_insecure"
            )
        if self.kserve and self.client_ca is not None and self.token_file is None:
            raise ValueError(
                "callers of KServe's protocols show no certificate, so with client_ca they need tokens: set token_file"
            )
        if self.kserve and not self.http:
            raise ValueError("kserve is answered over HTTP; leave out --no-http")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before variables before the file."""
        given = init_settings().get("config") or os.environ.get(f"{PREFIX}CONFIG")
        file = InitSettingsSource(settings_cls, _file(Path(given)) if given else {})
        return init_settings, env_settings, file


def _file(path: Path) -> dict[str, Any]:
    """What a TOML file sets. Raises: InvalidArgument, for a key that is no setting with the one that is close."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"the settings in {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidArgument(f"{str(path)!r} is no TOML file: {error}") from None
    for key in found:
        if key not in Settings.model_fields or key == "config":
            raise InvalidArgument(f"{str(path)!r}: {key!r} is no setting; {_close(key)}")
    return found


def _close(key: str) -> str:
    close = get_close_matches(key.lower().replace("-", "_"), Settings.model_fields, 3)
    return f"close ones: {', '.join(close)}" if close else "`onnx-attribution serve --help` lists all"


def unknown_variables(variables: Iterable[str]) -> list[str]:
    """What is wrong with variables that are nearly, but not, those of a setting."""
    names = [one.removeprefix(PREFIX).lower() for one in variables if one.startswith(PREFIX)]
    return [
        f"{PREFIX}{name.upper()} is no setting; close: {', '.join(PREFIX + one.upper() for one in close)}"
        for name in sorted(names)
        if name not in Settings.model_fields
        and (close := get_close_matches(name, Settings.model_fields, 2, cutoff=0.7))
    ]


def read(given: Mapping[str, object]) -> Settings:
    """The settings: what is given, before variables, before the file that either names.

    Raises:
        InvalidArgument: the message names each flag, variable or key whose value cannot be used.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by the model
    except ValidationError as error:
        problems = (
            f"{_place(given, str(one['loc'][0]))}: {one['msg']}" if one["loc"] else one["msg"]
            for one in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise InvalidArgument("; ".join(p.removeprefix("Value error, ") for p in problems)) from None


def _place(given: Mapping[str, object], name: str) -> str:
    """Where a setting came from."""
    variable = f"{PREFIX}{name.upper()}"
    if name in given:
        return f"--{name.replace('_', '-')}"
    return variable if variable in os.environ else f"{name} in the file of settings"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
