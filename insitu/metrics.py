"""The one table of all metrics: what the service counts, in which unit, and what it means.

Names follow Prometheus: one prefix, base units, `_total` for what only grows, timestamps rather
than ages. Every label is bounded: `LABELS` gives the values that are there from the start, with
0, and how many there may be; what comes beyond is added up under `other`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from insitu.hooks import ALERTS, EVENTS
from insitu.report import PHASES
from insitu.wire.messages import RESEND_CODES, NackCode, RefusalCode

Kind = Literal["counter", "gauge", "summary", "info"]

#: the label value that stands for all that came after the label was full
OTHER = "other"


@dataclass(frozen=True)
class Label:
    """A label and its bounds.

    Args:
        meaning: what its values are.
        values: values that exist from the start.
        most_values: how many distinct values are kept apart.
    """

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    most_values: int = 32


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: as exposed, with prefix and suffixes.
        kind: of Prometheus; a summary here is a sum and a count, without quantiles.
        unit: in words; empty for a figure without one.
        labels: names of `LABELS`, in order.
        meaning: one sentence.
        overflow: what `other` holds when a label is full: the sum, or the mean.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    overflow: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        assert self.name.startswith("insitu_"), self.name
        assert (self.kind == "counter") == self.name.endswith("_total"), self.name
        assert (self.kind == "info") == self.name.endswith("_info"), self.name
        assert set(self.labels) <= LABELS.keys(), self.labels


_QUANTILES = ("0.0", "0.25", "0.5", "0.75", "1.0")
_KERNEL_QUANTILES = ("0.0", "0.5", "1.0")
_KERNEL_COLUMNS = (
    *("activation_share", "change_mean_per_step", "change_largest_per_step"),
    *("moved_mean_per_step", "gain", "importance", "theta_per_step", "budget_per_step"),
)

_LABELS = (
    Label("phase", "phase of a training step", tuple(PHASES)),
    Label("source", "where the samples came from", ("fresh", "replayed")),
    Label("reason", "why, in a word", ()),
    Label("task", "name of the task, the first 64 to arrive", (), 64),
    Label("producer", "producer id, the first 64 to connect", (), 64),
    Label("objective", "name of the objective"),
    Label("strategy", "name of the strategy"),
    Label("detector", "name of the detector of drift"),
    Label("figure", "name of the figure"),
    Label("class", "label of the class, the first 64 to be counted", (), 64),
    Label("share", "share of the samples that are not older", _QUANTILES, 5),
    Label("layer", "name of the Hebbian layer in the model, the first 16", (), 16),
    Label("kernels", "share of the kernels that are not above", _KERNEL_QUANTILES, 3),
    Label("column", "column of the table of kernels", _KERNEL_COLUMNS, len(_KERNEL_COLUMNS)),
    Label("over", "which fresh rows", ("mean", "window", "fading")),
    Label("kind", "kind of alert", tuple(ALERTS)),
    Label("hook", "name of the hook", (), 64),
    Label("event", "event of the hook", tuple(EVENTS)),
    Label("device", "device of the model"),
    Label("version", "version of insitu"),
    Label("torch", "version of torch"),
    Label("python", "version of Python"),
)

#: name -> label
LABELS: Mapping[str, Label] = {label.name: label for label in _LABELS}

#: metric -> the values of its `reason` label that are there from the start
REASONS: Mapping[str, tuple[str, ...]] = {
    "insitu_quarantined_samples_total": tuple(
        code.value for code in NackCode if code not in RESEND_CODES
    ),
    "insitu_refused_messages_total": (
        "flood",
        "internal",
        "malformed",
        "no_session",
        "too_big",
        "unexpected",
    ),
    "insitu_broken_connections_total": ("no_bye", "no_session"),
    "insitu_refused_handshakes_total": (
        "mechanism",
        "no_key",
        "not_accepted",
        "protocol",
        "rate",
        "unfinished",
        "unknown_key",
        "user",
        "wrong_key",
    ),
    "insitu_cut_connections_total": ("silent", "too_many", "too_much"),
    "insitu_refused_sessions_total": tuple(code.value for code in RefusalCode),
}


def _counter(name: str, unit: str, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"insitu_{name}_total", "counter", unit, labels, meaning)


def _gauge(
    name: str,
    unit: str,
    labels: tuple[str, ...],
    meaning: str,
    overflow: Literal["sum", "mean"] = "sum",
) -> Metric:
    return Metric(f"insitu_{name}", "gauge", unit, labels, meaning, overflow)


_STREAM = (
    _counter("messages", "messages", (), "Messages of producers that were understood."),
    _counter("received_samples", "samples", (), "Samples of complete batches that came in."),
    _counter("received_bytes", "bytes", (), "Bytes of payload that came in."),
    _counter("accepted_samples", "samples", (), "Samples taken into the stream buffer."),
    _counter("probe_samples", "samples", (), "Held-out samples that came in to be measured only."),
    _counter(
        "trained_samples", "samples", ("source",),
        "Rows trained; a sample that is drawn or replayed again counts again.",
    ),
    _counter(
        "skipped_samples", "samples", (),
        "Samples drawn for a step that made no update: something was not finite.",
    ),
    _counter("dropped_samples", "samples", (), "Samples that the full buffer gave up unseen."),
    _counter(
        "quarantined_samples", "samples", ("reason",), "Samples refused because of their values."
    ),
    _counter("duplicate_batches", "batches", (), "Batches that came again and were left out."),
    _counter(
        "lost_samples", "samples", (),
        "Samples missing for good: acknowledged in memory by an earlier life of the service.",
    ),
    _counter("go_backs", "times", (), "Times a producer was asked to send again from a gap on."),
    _counter("full_batches", "batches", (), "Batches that found no room and were asked for again."),
    _counter("clipped_values", "values", (), "Non-finite values that were mended."),
    _counter("refused_messages", "messages", ("reason",), "Messages that were not acted on."),
    _counter("refused_sessions", "times", ("reason",), "Producers that were turned away."),
    _counter(
        "broken_connections", "connections", ("reason",),
        "Connections that ended without BYE: of a session (no_bye), or of none (no_session).",
    ),
    _counter(
        "refused_handshakes", "connections", ("reason",),
        "Connections that were not let in: by their key, user, rate or form, or for want of "
        "file descriptors (not_accepted, once a look).",
    ),
    _counter(
        "cut_connections", "connections", ("reason",),
        "Connections that were ended: too many, without a session for too long, or sending more "
        "than a message may have.",
    ),
    _gauge("connections", "connections", (), "Connections that are open, with or without session."),
    _counter("expired_sessions", "sessions", (), "Sessions ended because nothing was heard."),
    _counter("fenced_sessions", "sessions", (), "Sessions ended by a newer one of the same id."),
    _counter("unsent_messages", "messages", (), "Answers that could not be sent."),
)  # fmt: skip

_BUFFER = (
    _gauge("buffer_capacity_samples", "samples", (), "Slots of the stream buffer."),
    _gauge("buffer_free_samples", "samples", (), "Free slots."),
    _gauge("buffer_unseen_samples", "samples", (), "Samples that wait for their first training."),
    _gauge("buffer_seen_samples", "samples", (), "Samples kept for another draw."),
    _gauge("buffer_task_samples", "samples", ("task",), "Samples in the buffer by task."),
    _gauge("memory_capacity_samples", "samples", (), "Slots of the episodic memories."),
    _gauge("memory_samples", "samples", (), "Samples in the episodic memories."),
    _gauge("memory_task_samples", "samples", ("task",), "Samples in the memories by task."),
    _gauge("memory_class_samples", "samples", ("class",), "The same by class, where it is known."),
    _gauge("memory_producer_samples", "samples", ("producer",), "The same by producer."),
    _gauge(
        "memory_age_seconds", "seconds", ("share",), "Time since remembered samples were pushed."
    ),
    _gauge(
        "memory_age_samples",
        "samples",
        ("share",),
        "Samples offered to the memory since a remembered one was.",
    ),
)

_PRODUCERS = (
    _gauge("sessions", "sessions", (), "Producers that are connected."),
    _gauge("producer_credit_bytes", "bytes", ("producer",), "Credit granted and not yet used."),
    _counter(
        "producer_blocked_seconds", "seconds", ("producer",),
        "Time that pushes waited for room, as told by the producer.",
    ),
    _counter(
        "producer_throttled_seconds", "seconds", ("producer",),
        "Time that a producer waited for its quota (stream.producer_rate_...).",
    ),
    _counter(
        "producer_pushed_samples", "samples", ("producer",),
        "Samples given to push, as told by the producer.",
    ),
    _counter(
        "producer_dropped_samples", "samples", ("producer",),
        "Samples the producer dropped by its policy, as told by the producer.",
    ),
    _counter(
        "producer_accepted_samples", "samples", ("producer",), "Samples taken from the producer."
    ),
)  # fmt: skip

_TRAINING = (
    _counter("steps", "steps", (), "Training steps done, skipped ones included."),
    _counter("skipped_steps", "steps", (), "Steps without an update: something was not finite."),
    _counter("rollbacks", "times", (), "Returns to the newest good checkpoint."),
    _counter(
        "out_of_memory_retries", "times", (),
        "Updates tried again in smaller pieces because memory ran out.",
    ),
    _counter("step_seconds", "seconds", ("phase",), "Time spent, by phase of the step."),
    _gauge(
        "loss", "", ("objective", "source"),
        "Mean loss of the newest step, without penalties.", "mean",
    ),
    _gauge("penalty", "", ("strategy",), "Penalty of the newest step.", "mean"),
    _gauge("score", "", ("figure",), "Figure of the newest fresh rows before the update.", "mean"),
    _gauge("strategy_figure", "", ("strategy", "figure"), "What a strategy tells.", "mean"),
    _gauge("learning_rate", "", (), "Learning rate of the newest step."),
    _gauge("gradient_norm", "", (), "L2 norm of the newest gradient before clipping."),
    Metric(
        "insitu_sample_age_seconds", "summary", "seconds", (),
        "Time from push to first training of fresh samples.",
    ),
    _gauge("last_step_timestamp_seconds", "seconds", (), "End of the newest step, since 1970."),
    _counter("ended_tasks", "visits", (), "Task visits that have ended and were consolidated."),
    _counter(
        "detected_boundaries", "boundaries", ("detector",),
        "Boundaries of tasks that a detector found.",
    ),
    _gauge(
        "last_boundary_timestamp_seconds", "seconds", (),
        "Newest boundary that was detected or commanded, since 1970; 0 before the first.",
    ),
    _gauge("detector_figure", "", ("detector", "figure"), "What a detector tells.", "mean"),
    _gauge("tasks", "tasks", (), "Tasks that are known, segments of tasks counted each."),
    _gauge(
        "evaluation_score", "", ("task", "figure"),
        "Newest figure on the held-out probes of a task.", "mean",
    ),
    _gauge(
        "evaluation_forgetting", "", ("task", "figure"),
        "By how much that figure is worse than at its best.", "mean",
    ),
    _gauge("evaluation_figure", "", ("figure",), "Newest figure over all tasks, see evaluation."),
    _gauge(
        "prequential_loss", "", ("over",),
        "Mean loss of fresh rows before they were trained; NaN before the first.",
    ),
    _gauge(
        "prequential_score", "", ("over", "figure"),
        "The same of the headline score.",
    ),
    _gauge(
        "prequential_task_loss", "", ("task",),
        "Mean loss of all fresh rows of a task before they were trained.", "mean",
    ),
    _gauge(
        "prequential_task_score", "", ("task", "figure"),
        "The same of the headline score.", "mean",
    ),
    _gauge("evaluation_probe_samples", "samples", ("task",), "Held-out probes of a task."),
)  # fmt: skip

_HEBBIAN = (
    _counter("hebbian_updates", "updates", ("layer",), "Updates of a Hebbian layer's kernels."),
    _gauge("hebbian_plastic", "", ("layer",), "1 while a Hebbian layer learns, else 0.", "mean"),
    _gauge("hebbian_kernels", "kernels", ("layer",), "Kernels of a Hebbian layer."),
    _gauge(
        "hebbian_converged_kernels", "kernels", ("layer",),
        "Of these, with a norm within 1 % of 1.",
    ),
    _gauge("hebbian_kernel_norm", "", ("layer", "kernels"), "Norms of the kernels.", "mean"),
    _gauge(
        "hebbian_learning_rate", "", ("layer", "kernels"),
        "Learning rates in force, before neuromodulation.", "mean",
    ),
    _gauge(
        "hebbian_protected_kernels", "kernels", ("layer",),
        "Kernels that `kernel_plasticity` holds back.",
    ),
    _gauge(
        "hebbian_kernel_figure", "", ("layer", "column", "kernels"),
        "What `kernel_plasticity` knows of kernels, see `insitu kernels`.", "mean",
    ),
)  # fmt: skip

_LOG = (
    _gauge(
        "resumed_samples",
        "samples",
        (),
        "Samples that an earlier life had accepted and not trained when this one began.",
    ),
    _gauge(
        "backlog_samples",
        "samples",
        (),
        "Accepted samples that wait in the stream log for room in the buffer.",
    ),
    _gauge(
        "ingest_stopped",
        "",
        (),
        "1 while nothing can be accepted, such as on a full disk; /readyz says why.",
    ),
    _counter("log_records", "records", (), "Records appended to the stream log."),
    _gauge("log_unsynced_records", "records", (), "Appended, and lost if the power went now."),
    _gauge("log_size_bytes", "bytes", (), "What the stream log takes, reserved room included."),
    _gauge("log_segments", "files", (), "Files of the stream log that hold records."),
    _counter("log_syncs", "syncs", (), "Times that the stream log was synced."),
    _counter("log_sync_seconds", "seconds", (), "Time that these took."),
    _gauge("log_sync_slowest_seconds", "seconds", (), "The slowest of them."),
)  # fmt: skip

_SERVICE = (
    _counter("checkpoints", "checkpoints", (), "Checkpoints written."),
    _counter("checkpoint_failures", "checkpoints", (), "Checkpoints that could not be written."),
    _counter("checkpoints_skipped", "checkpoints", (), "Left out: the disk had not kept up."),
    _gauge("checkpoint_capture_seconds", "seconds", (), "Time the newest held the learner."),
    _gauge("checkpoint_duration_seconds", "seconds", (), "Time to write the newest."),
    _gauge("checkpoint_size_bytes", "bytes", (), "Size of the tensors of the newest."),
    _gauge(
        "checkpoint_last_success_timestamp_seconds", "seconds", (),
        "When the newest was on the disk, since 1970; 0 before the first.",
    ),
    _counter("hook_calls", "events", ("hook", "event"), "Events that a hook began to act on."),
    _counter("hook_failures", "events", ("hook", "event"), "Events on which it failed."),
    _counter("hook_timeouts", "events", ("hook", "event"), "Events on which it took too long."),
    _counter("hook_dropped", "events", ("hook", "event"), "Events it was too busy or stuck for."),
    _counter("alerts", "alerts", ("kind",), "Alerts raised."),
    _gauge(
        "gpu_memory_allocated_bytes", "bytes", (), "GPU memory in tensors; 0 without a GPU."
    ),
    _gauge("gpu_memory_reserved_bytes", "bytes", (), "GPU memory held by the allocator."),
    _gauge("gpu_memory_capacity_bytes", "bytes", (), "GPU memory of the device."),
    _gauge("ready", "", (), "1 when the service takes new samples, else 0."),
    _gauge("start_timestamp_seconds", "seconds", (), "Start of the service, since 1970."),
    _counter("unknown_readings", "readings", (), "Readings not in this table: an error of ours."),
    Metric(
        "insitu_build_info", "info", "", ("version", "torch", "python", "device"),
        "What runs here.",
    ),
)  # fmt: skip

#: all metrics, in the order of the documentation
METRICS: tuple[Metric, ...] = (
    *_STREAM, *_BUFFER, *_LOG, *_PRODUCERS, *_TRAINING, *_HEBBIAN, *_SERVICE,
)  # fmt: skip
