"""What can be set, by ONNX_ATTRIBUTION_* variables or by the command line: one model for both."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.sources import PydanticBaseSettingsSource

__all__ = ["Settings", "is_loopback"]


class Settings(BaseSettings):
    """Limits and places; times in seconds, sizes in MiB. Zero threads: as many as the container may use."""

    model_config = SettingsConfigDict(env_prefix="ONNX_ATTRIBUTION_", frozen=True, extra="forbid")

    models: Annotated[tuple[Path, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=0, le=65535)
    allow_insecure: bool = False
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    default_role: Literal["read", "attribute", "admin"] | None = None

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    devices: Annotated[tuple[int, ...], NoDecode] = ()
    tf32: bool = False
    memory_budget_mib: int = Field(default=2048, ge=1)

    most_loaded: int = Field(default=16, ge=0)
    watch: bool = False
    isolate: bool = False
    uploads: bool = False
    max_upload_mib: int = Field(default=2048, ge=1)

    max_request_mib: int = Field(default=64, ge=1, le=512)
    max_response_mib: float = Field(default=3, gt=0, le=512)
    max_samples: int = Field(default=256, ge=1)
    max_steps: int = Field(default=16384, ge=1)

    workers: int = Field(default=2, ge=1)
    max_unary: int = Field(default=64, ge=1)
    max_streams: int = Field(default=32, ge=1)
    max_audits: int = Field(default=8, ge=1)
    audit_window: int = Field(default=16, ge=1)
    max_per_caller: int = Field(default=8, ge=0)
    unary_seconds: float = Field(default=60, gt=0)
    stream_seconds: float = Field(default=600, gt=0)
    max_seconds: float = Field(default=3600, gt=0)
    heartbeat_seconds: float = Field(default=15, gt=0)
    audit_idle_seconds: float = Field(default=120, gt=0)

    lame_duck_seconds: float | None = Field(default=None, ge=0)
    grace_seconds: float = Field(default=30, ge=0)

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

    @field_validator("devices", mode="before")
    @classmethod
    def _numbers(cls, devices: object) -> object:
        """A variable names several devices as `0,1`."""
        return tuple(filter(None, devices.split(","))) if isinstance(devices, str) else devices

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
        """Arguments before variables; no files."""
        return init_settings, env_settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
