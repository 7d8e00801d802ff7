"""Keeps a core alive: notices that it died, starts another, and says so meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from server.engine.core import Core
from server.engine.generator import EngineNotReadyError

POLL_S = 0.1
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A core that lived this long died of something new: the next one is started at once. One that
dies sooner, or cannot be started, is waited for twice as long each time."""

log = structlog.get_logger(__name__)


class Keeper:
    """Used from one event loop, but for the ``make`` it is given, which runs in threads."""

    def __init__(self, make: Callable[[], Core]) -> None:
        """``make`` starts a core and returns it; it may take minutes and raise anything."""
        self._make = make
        self._core: Core | None = None
        self._making: asyncio.Future[Core] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._made_at = 0.0  # time.monotonic() of the last core's start
        self._start_s = 0.0  # what that start took
        self._pause_s = 0.0  # before the next start
        self.lost = False  # no core can live in this process any more

    async def start(self) -> None:
        """Start the first core; raises what ``make`` raises. Later failures are retried."""
        await self._renew()
        self._watch = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Stop the core when it has finished its requests. Idempotent."""
        self._stopping.set()
        if self._watch is not None:
            await self._watch
        elif self._making is not None:  # a start that was cancelled goes on in its thread
            with contextlib.suppress(Exception):
                self._core = await self._making
        if self._core is not None:
            await self._core.stop()

    @property
    def ready(self) -> bool:
        core = self._core
        living = core is not None and core.alive and not self.lost
        return living and not self._stopping.is_set()

    @property
    def core(self) -> Core:
        """Raises: EngineNotReadyError with the seconds until it may be back."""
        if self._core is None or self._stopping.is_set():
            raise EngineNotReadyError("the engine is loading or draining: try again")
        if self.lost:
            raise EngineNotReadyError(
                "the accelerator has failed; this server ends, to be started again: try again",
                retry_after_s=LONGEST_PAUSE_S,
            )
        if not self._core.alive:
            raise EngineNotReadyError(
                "the engine has died and is being started again: try again",
                # a guess from the last start; asking every minute costs nothing
                retry_after_s=min(max(2.0, self._pause_s + self._start_s), LONGEST_PAUSE_S),
            )
        return self._core

    def load(self) -> tuple[int, int]:
        return (0, 0) if self._core is None else self._core.load()

    async def _renew(self) -> None:
        began = time.monotonic()
        maker = ThreadPoolExecutor(1, "engine-start")
        loop = asyncio.get_running_loop()
        self._making = asyncio.ensure_future(loop.run_in_executor(maker, self._make))
        maker.shutdown(wait=False)  # its thread ends with the work: see cores.py
        self._core = await asyncio.shield(self._making)
        self._made_at = time.monotonic()
        self._start_s = self._made_at - began

    async def _keep(self) -> None:
        while not await self._stopped_within(POLL_S):
            if self._core is not None and self._core.lost:
                self.lost = True
                log.critical("device_lost")
                return
            if self._core is not None and not self._core.alive:
                await self._replace(self._core)

    async def _replace(self, dead: Core) -> None:
        """Returns when there is a living core, or none is wanted any more."""
        died_at = time.monotonic()
        if died_at - self._made_at > STEADY_S:
            self._pause_s = 0.0
        log.error("engine_died", lived_s=round(died_at - self._made_at, 1), pause_s=self._pause_s)
        with contextlib.suppress(Exception):  # remains that cannot be removed hold up nothing
            await dead.stop()
        while not dead.lost and not await self._stopped_within(self._pause_s):
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            try:
                await self._renew()
            except Exception:
                log.exception("engine_restart_failed", next_try_s=self._pause_s)
            else:
                log.info("engine_restarted", down_s=round(time.monotonic() - died_at, 2))
                return

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()
