"""The worker process: signals, store, writer, loop.

The loop runs in a thread and the main thread only waits, because Python delivers signals between
two bytecodes of the main thread: one deep inside a model's forward pass would be deaf.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import structlog

from memory_store.store import MemoryStore
from paramem.logs import configure_logging
from paramem.settings import Settings
from trainer_worker.drain import Drain
from trainer_worker.factory import build_writer
from trainer_worker.heartbeat import Heartbeat
from trainer_worker.niceness import stand_back
from trainer_worker.worker import Worker
from trainer_worker.writer import DeviceLost, MemoryWriter

log = structlog.get_logger(__name__)

ABANDON_S = 2.0
"""Time after the grace for a writer to notice; one that does not is left behind."""
DEVICE_LOST = 1
"""Exit code: a supervisor starts another process."""


def run_worker(
    settings: Settings, *, make_writer: Callable[[Settings], MemoryWriter] = build_writer
) -> None:
    """Serve the queue until SIGTERM or SIGINT (a second SIGINT: without grace).

    Finishes the running batch if that takes no longer than ``shutdown_grace_s``, else gives the
    leases back. Returns after a drain. Raises whatever else ended the loop, e.g. a model that
    cannot be loaded. Call it from the main thread.
    """
    configure_logging(settings.log_level)
    stand_back(settings.worker_nice)
    drain = Drain(settings.shutdown_grace_s)
    failures: list[BaseException] = []
    loaded = threading.Event()
    with _drained_by_signals(drain), _open_store(settings) as store:
        heartbeat = Heartbeat(
            store, _new_worker_id(), every_s=settings.heartbeat_s, lease_s=settings.lease_s
        )

        def body() -> None:
            try:
                with heartbeat:
                    writer = make_writer(settings)
                    loaded.set()
                    heartbeat.become("idle", fingerprint=writer.spec.fingerprint)
                    log.info("worker_ready", worker_id=heartbeat.worker_id)
                    try:
                        Worker(store, writer, heartbeat, drain, settings).run()
                    except DeviceLost:
                        _die_of_device(heartbeat.worker_id)
            except BaseException as error:
                failures.append(error)

        log.info("worker_started", worker_id=heartbeat.worker_id, home=str(settings.home))
        thread = threading.Thread(target=body, name="worker", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            loading = not loaded.is_set()  # no batch to wait for
            if drain.overdue_s > ABANDON_S or (drain.requested and loading and thread.is_alive()):
                log.warning(
                    "worker_abandoned", worker_id=heartbeat.worker_id, while_loading=loading
                )
                heartbeat.sign_off()
                logging.shutdown()
                # The thread cannot be stopped, and must not commit after the leases are gone.
                os._exit(0)
    if failures:
        raise failures[0]
    log.info("worker_stopped", worker_id=heartbeat.worker_id)


def _die_of_device(worker_id: str) -> None:
    """As if killed: the leases expire, and each document of the batch is tried on its own by the
    worker that comes next, since one of them may be what the device failed at."""
    log.critical("device_lost", worker_id=worker_id, exc_info=True)
    logging.shutdown()
    os._exit(DEVICE_LOST)


def _open_store(settings: Settings) -> MemoryStore:
    return MemoryStore.open(
        settings.home,
        max_queue=settings.max_queue,
        disk_floor_bytes=settings.disk_floor_bytes,
        max_attempts=settings.max_attempts,
    )


def _new_worker_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _drained_by_signals(drain: Drain) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        # Ctrl-C under a supervisor arrives as SIGINT and then SIGTERM: that is still one request.
        again = number == signal.SIGINT and drain.requested
        drain.request(at_once=again)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
