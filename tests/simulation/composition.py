"""The parts of a service, put together as the daemon does it, on a simulated disk and no socket."""

from __future__ import annotations

from collections.abc import Callable

import torch

from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet, ProbeSink
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.pacing import FixedPace, FreePace, Pace
from insitu.stream.policies import FIFO, FIRO, Policy
from insitu.stream.staging import Staging
from insitu.tasks import TaskLedger
from insitu.wire.messages import AckLevel
from insitu_service.ingest.acknowledger import Acknowledger, Send
from insitu_service.ingest.data_path import DataPath
from insitu_service.ingest.greeting import Terms
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import Sessions
from insitu_service.stream_log.syncer import LogSyncer
from simulated_disk import SimulatedDisk
from simulation.samples import ROW_BYTES, SCHEMA, door
from simulation.settings import Settings
from simulation.virtual_clock import VirtualClock


def make_buffer(settings: Settings, clock: VirtualClock, seed: int) -> StreamBuffer:
    policy: Policy = (FIFO if settings.policy == "fifo" else FIRO)(settings.capacity_samples)
    pace: Pace = FreePace(linger_seconds=0.3) if settings.free_pace else FixedPace()
    return StreamBuffer(
        SCHEMA,
        settings.capacity_samples,
        policy,
        pace,
        TaskLedger(most_tasks=4),
        when_full=settings.when_full,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
        clock=clock,
    )


def make_logged_inlet(
    settings: Settings,
    buffer: StreamBuffer,
    probes: ProbeSink,
    disk: SimulatedDisk,
    *,
    wall_ns: Callable[[], int],
    on_appended: Callable[[], None],
    on_synced: Callable[[], None],
) -> tuple[LoggedInlet, LogSyncer]:
    """As `insitu_service.stream_log.logged.open_log`, not recovered yet."""
    log = StreamLog(
        disk, SCHEMA, segment_bytes=settings.segment_bytes, spare_segments=2, clock=wall_ns
    )
    syncer = LogSyncer(
        log,
        at_once=settings.ack_level == AckLevel.DURABLE,
        interval_seconds=settings.sync_seconds,
        on_synced=on_synced,
    )
    inlet = LoggedInlet(
        buffer,
        probes,
        log,
        Staging(SCHEMA, settings.capacity_samples),
        most_rows=buffer.largest_reservation(settings.batch_size),
        spill_samples=settings.spill_samples,
        on_appended=on_appended,
        clock=wall_ns,
    )
    return inlet, syncer


def make_reception(
    settings: Settings, inlet: Inlet, sessions: Sessions, intake: Intake, send: Send
) -> Reception:
    """As `insitu_service.compose.compose_ingest`, without the socket."""
    rows = inlet.largest_reservation(settings.batch_size)
    ring_share = max(1, min(rows, inlet.capacity_samples // 2)) * ROW_BYTES
    terms = Terms(
        SCHEMA, frozenset({"s"}), None, 100, settings.max_fragment_bytes, ring_share,
        settings.when_full, heartbeat_seconds=settings.heartbeat_seconds,
        ack_level=settings.ack_level,
    )  # fmt: skip
    acknowledger = Acknowledger(
        sessions, inlet, send, row_bytes=ROW_BYTES, always_room=settings.when_full != "block"
    )
    lobby = Lobby(
        sessions, inlet, terms, acknowledger, intake, send,
        timeout_seconds=settings.timeout_seconds,
    )  # fmt: skip
    data_path = DataPath(
        inlet, door(), acknowledger, intake, send,
        drops_newest=settings.when_full == "drop_newest",
    )  # fmt: skip
    return Reception(sessions, lobby, data_path, acknowledger, intake, send)
