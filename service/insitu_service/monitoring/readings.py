"""Readings: the live values of all metrics, taken from the parts at scrape time."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from insitu import __version__
from insitu.analysis.hebbian_layers import QUANTILES, hebbian_figures
from insitu.analysis.kernels import trainer_kernels
from insitu.metrics import OTHER
from insitu.strategies.kernel_plasticity import KernelPlasticityStrategy
from insitu_service.compose import Service
from insitu_service.learning.memories import memory_fill
from insitu_service.monitoring.collector import Reading
from insitu_service.monitoring.overview import number


class Readings:
    """Gives a reading of every metric.

    Args:
        is_ready: whether the service takes samples.
    """

    def __init__(self, service: Service, is_ready: Callable[[], bool]) -> None:
        self._service = service
        self._is_ready = is_ready
        self._started_at = time.time()

    def read(self) -> Iterator[Reading]:
        """All of them, in no order that matters."""
        yield from self._stream()
        yield from self._buffer()
        yield from self._producers()
        yield from self._steps()
        yield from self._newest_step()
        yield from self._hebbian()
        yield from self._kernels()
        yield from self._tasks()
        yield from self._log()
        yield from self._checkpoints()
        yield from self._hooks()
        yield from self._machine()

    def _stream(self) -> Iterator[Reading]:
        intake, service = self._service.intake, self._service
        for name in (
            "messages",
            "received_samples",
            "received_bytes",
            "accepted_samples",
            "probe_samples",
            "duplicate_batches",
            "lost_samples",
            "go_backs",
            "full_batches",
            "expired_sessions",
            "fenced_sessions",
            "unsent_messages",
        ):
            yield _counter(name, getattr(intake, name))
        yield from _by_label("quarantined_samples", intake.quarantined_samples)
        yield from _by_label("refused_messages", intake.refused_messages)
        yield from _by_label("refused_sessions", intake.refused_hellos)
        yield from _by_label("broken_connections", intake.broken_connections)
        yield from _by_label("refused_handshakes", intake.refused_handshakes)
        yield from _by_label("cut_connections", intake.cut_connections)
        yield _gauge("connections", intake.connections)
        yield _counter("clipped_values", service.door.clipped_values)
        yield _counter("dropped_samples", service.buffer.snapshot().dropped)
        tally = service.tally
        yield _counter("trained_samples", tally.fresh_samples, "fresh")
        yield _counter("trained_samples", tally.replayed_samples, "replayed")
        yield _counter("skipped_samples", tally.skipped_samples)

    def _buffer(self) -> Iterator[Reading]:
        fill = self._service.buffer.snapshot()
        yield _gauge("buffer_capacity_samples", fill.capacity_samples)
        yield _gauge("buffer_free_samples", fill.free_samples)
        yield _gauge("buffer_unseen_samples", fill.unseen_samples)
        yield _gauge("buffer_seen_samples", fill.seen_samples)
        for task in fill.tasks:
            yield _gauge("buffer_task_samples", task.unseen + task.seen, task.name)
        buffer = self._service.buffer
        memory = memory_fill(self._service.trainer, buffer.task_names(), buffer.producers())
        if memory is not None:
            yield _gauge("memory_capacity_samples", memory["capacity_samples"])
            yield _gauge("memory_samples", memory["samples"])
            for name, count in memory["by_task"].items():
                yield _gauge("memory_task_samples", count, name)
            for label, count in memory["by_class"].items():
                yield _gauge("memory_class_samples", count, label)
            for producer, count in memory["by_producer"].items():
                yield _gauge("memory_producer_samples", count, producer)
            for quantile, age in memory["age_seconds"].items():
                yield _gauge("memory_age_seconds", age, quantile)
            for quantile, age in memory["age_samples"].items():
                yield _gauge("memory_age_samples", age, quantile)

    def _producers(self) -> Iterator[Reading]:
        sessions = list(self._service.sessions)
        yield _gauge("sessions", len(sessions))
        for session in sessions:
            yield _gauge("producer_credit_bytes", session.outstanding_bytes, session.producer_id)
        for name, figures in list(self._service.intake.producers.items()):
            yield _counter("producer_blocked_seconds", figures.blocked_seconds, name)
            yield _counter("producer_throttled_seconds", figures.throttled_seconds, name)
            yield _counter("producer_pushed_samples", figures.pushed_samples, name)
            yield _counter("producer_dropped_samples", figures.dropped_samples, name)
            yield _counter("producer_accepted_samples", figures.accepted_samples, name)

    def _steps(self) -> Iterator[Reading]:
        tally = self._service.tally
        yield _counter("steps", tally.steps)
        yield _counter("skipped_steps", tally.skipped_steps)
        yield _counter("rollbacks", tally.roll_backs)
        yield _counter("out_of_memory_retries", tally.out_of_memory_retries)
        yield _counter("ended_tasks", tally.task_ends)
        yield _gauge("last_boundary_timestamp_seconds", tally.last_boundary_at)
        watch = self._service.trainer.watch
        if watch is not None:
            for name, detector in watch.detectors.items():
                yield _counter("detected_boundaries", watch.boundaries[name], name)
                for figure, value in detector.metrics().items():
                    yield _gauge("detector_figure", value, name, figure)
        for phase, seconds in tally.phase_seconds.items():
            yield _counter("step_seconds", seconds, phase)
        age = tally.age_seconds_sum, tally.age_samples
        yield Reading("insitu_sample_age_seconds", (), *age)
        yield _gauge("last_step_timestamp_seconds", tally.last_step_at)

    def _newest_step(self) -> Iterator[Reading]:
        report, trainer = self._service.tally.last_report, self._service.trainer
        yield _gauge("learning_rate", float(trainer.optimizer.param_groups[0]["lr"]))
        for name, strategy in trainer.strategies.items():
            for figure, value in strategy.metrics().items():
                yield _gauge("strategy_figure", float(value), name, figure)
        if report is None:
            return
        objective = self._service.config.objective.name
        for source, loss in (("fresh", report.loss_fresh), ("replayed", report.loss_replayed)):
            if loss is not None:
                yield _gauge("loss", float(loss), objective, source)
        for name, penalty in report.penalties.items():
            yield _gauge("penalty", float(penalty), name)
        for name, score in self._service.tally.scores().items():
            yield _gauge("score", score, name)
        norm = number(self._service.tally.gradient_norm)
        if norm is not None:
            yield _gauge("gradient_norm", norm)

    def _hebbian(self) -> Iterator[Reading]:
        for layer, found in hebbian_figures(self._service.trainer.module).items():
            yield _counter("hebbian_updates", found.updates, layer)
            yield _gauge("hebbian_plastic", float(found.plastic), layer)
            yield _gauge("hebbian_kernels", found.kernels, layer)
            yield _gauge("hebbian_converged_kernels", found.converged, layer)
            for share, value in found.norms.items():
                yield _gauge("hebbian_kernel_norm", value, layer, str(share))
            for share, value in found.learning_rates.items():
                yield _gauge("hebbian_learning_rate", value, layer, str(share))

    def _kernels(self) -> Iterator[Reading]:
        """Quantiles of what is recorded where kernels are modulated, and how many are held back."""
        trainer = self._service.trainer
        strategies = trainer.strategies.values()
        if not any(isinstance(each, KernelPlasticityStrategy) for each in strategies):
            return
        for layer, table in trainer_kernels(trainer).items():
            protected = int(table.columns["protected"].sum())
            yield _gauge("hebbian_protected_kernels", protected, layer)
            for column, quantiles in table.quantiles(QUANTILES).items():
                if column in ("norm", "learning_rate"):  # have metrics of their own
                    continue
                for share, value in quantiles.items():
                    yield _gauge("hebbian_kernel_figure", value, layer, column, str(share))

    def _tasks(self) -> Iterator[Reading]:
        picture = self._service.examiner.picture
        yield _gauge("tasks", len(self._service.examiner.names()))
        for task, value in (picture.newest or {}).items():
            yield _gauge("evaluation_score", value, task, picture.metric)
        for task, value in (picture.forgetting or {}).items():
            yield _gauge("evaluation_forgetting", value, task, picture.metric)
        for name, value in picture.figures.items():
            yield _gauge("evaluation_figure", value, name)
        yield from self._prequential()
        for task, count in picture.probes.items():
            yield _gauge("evaluation_probe_samples", count, task)

    def _prequential(self) -> Iterator[Reading]:
        examiner = self._service.examiner
        prequential, names = examiner.prequential, examiner.names()
        over = {"mean": prequential.mean(), "window": prequential.window()}
        over["fading"] = prequential.fading()
        for name, found in over.items():
            yield _gauge("prequential_loss", found.loss, name)
            yield _gauge("prequential_score", found.score, name, prequential.score)
        for task, found in prequential.by_task().items():
            label = names[task] if 0 <= task < len(names) else OTHER
            yield _gauge("prequential_task_loss", found.loss, label)
            yield _gauge("prequential_task_score", found.score, label, prequential.score)

    def _log(self) -> Iterator[Reading]:
        service, log = self._service, self._service.log
        yield _gauge("resumed_samples", service.resumed_samples)
        yield _gauge("backlog_samples", service.inlet.backlog_samples)
        yield _gauge("ingest_stopped", float(bool(service.inlet.problem)))
        if log is None:
            return
        appended = log.log.appended
        yield _counter("log_records", appended - log.recovery.appended)
        yield _gauge("log_unsynced_records", max(0, appended - log.log.synced))
        yield _gauge("log_size_bytes", log.log.size_bytes)
        yield _gauge("log_segments", log.log.segments)
        yield _counter("log_syncs", log.syncer.syncs)
        yield _counter("log_sync_seconds", log.syncer.sync_seconds)
        yield _gauge("log_sync_slowest_seconds", log.syncer.slowest_seconds)

    def _checkpoints(self) -> Iterator[Reading]:
        recorder, writer = self._service.recorder, self._service.writer
        yield _counter("checkpoints_skipped", recorder.late_checkpoints)
        yield _gauge("checkpoint_capture_seconds", recorder.capture_seconds)
        if writer is None:
            return
        done = writer.counters
        yield _counter("checkpoints", done.written)
        yield _counter("checkpoint_failures", done.failures)
        yield _gauge("checkpoint_duration_seconds", done.last_duration_seconds)
        yield _gauge("checkpoint_size_bytes", done.last_size_bytes)
        last = done.last_success_timestamp_seconds
        yield _gauge("checkpoint_last_success_timestamp_seconds", last)

    def _hooks(self) -> Iterator[Reading]:
        for hook in self._service.hooks.status():
            labels = hook.hook, hook.event
            yield _counter("hook_calls", hook.calls, *labels)
            yield _counter("hook_failures", hook.failures, *labels)
            yield _counter("hook_timeouts", hook.timeouts, *labels)
            yield _counter("hook_dropped", hook.dropped, *labels)
        yield from _by_label("alerts", self._service.tally.alerts)

    def _machine(self) -> Iterator[Reading]:
        device = self._service.device
        if device.type == "cuda":
            yield _gauge("gpu_memory_allocated_bytes", torch.cuda.memory_allocated(device))
            yield _gauge("gpu_memory_reserved_bytes", torch.cuda.memory_reserved(device))
            capacity = torch.cuda.get_device_properties(device).total_memory
            yield _gauge("gpu_memory_capacity_bytes", capacity)
        yield _gauge("ready", float(self._is_ready()))
        yield _gauge("start_timestamp_seconds", self._started_at)
        build = __version__, str(torch.__version__), platform.python_version(), str(device)
        yield Reading("insitu_build_info", build, 1.0)


def _counter(name: str, value: float, *labels: str) -> Reading:
    return Reading(f"insitu_{name}_total", labels, value)


def _gauge(name: str, value: float, *labels: str) -> Reading:
    return Reading(f"insitu_{name}", labels, value)


def _by_label(name: str, counts: Mapping[str, int]) -> Iterator[Reading]:
    for label, count in list(counts.items()):
        yield _counter(name, count, label)
