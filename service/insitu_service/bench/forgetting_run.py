"""One run in this process: the service's own parts, fed directly instead of through sockets.

Rows go into the stream buffer as the ingest thread would put them, and batches are drawn as the
learner would; only sockets, threads and the door are missing. With the fixed pace a draw depends
on the order of arrival alone, so a real service finds the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from insitu.batch import Batch, Column, SampleFlag
from insitu.config import check_config
from insitu.evaluation import ProbeSets
from insitu.stream.draw import Draw
from insitu.stream.stamp import Stamp, provenance
from insitu.stream.transfer import Transfer
from insitu.wire.rows import pack_rows
from insitu_producers.sources.feed import Push
from insitu_producers.sources.task_stream import TaskStream
from insitu_service.bench.forgetting_result import Moment, RunResult
from insitu_service.bench.forgetting_setup import Setup, configuration
from insitu_service.bench.forgetting_variants import Variant
from insitu_service.learning.building import build_buffer, build_trainer, choose_device
from insitu_service.learning.generators import part_generator

_PRODUCER = "bench"


def run_here(setup: Setup, variant: Variant, stream: TaskStream, seed: int) -> RunResult:
    """Learn the stream once and measure."""
    return Run(setup, variant, stream, seed).result()


class Run:
    """The parts of one run and what it has found so far."""

    def __init__(self, setup: Setup, variant: Variant, stream: TaskStream, seed: int) -> None:
        self._variant, self._seed = variant, seed
        self._stream = stream.joined(seed) if variant.joint else stream
        config = check_config(configuration(setup, variant, stream, seed))
        if config.trainer.threads is not None:
            torch.set_num_threads(config.trainer.threads)
        device = choose_device(config.trainer.device)
        self._batch_size = config.trainer.batch_size
        self._every = config.evaluation.every_steps
        self._trainer = build_trainer(config, device)
        self._buffer = build_buffer(config, device)
        self._transfer = Transfer(self._buffer.schema, device)
        self._probes = ProbeSets(
            config.evaluation.probe_samples_per_task, part_generator(seed, "probes")
        )
        self._probes_between = self._probes
        if setup.probes_between is not None:
            self._probes_between = ProbeSets(
                setup.probes_between, part_generator(seed, "probes between")
            )
        self._rows = self._samples = 0
        self._begun: dict[int, None] = {}  # tasks, in their order
        self._curve: list[Moment] = []
        self._measured = setup.measured
        self._newest: Mapping[int, Mapping[str, float]] = {}
        self._examined_seconds = 0.0

    def result(self) -> RunResult:
        """Run to the end."""
        began = time.perf_counter()
        for push in self._stream:
            if push.evaluate:
                self._keep_probe(push)
            else:
                self._take_in(push)
                self._learn_what_is_there()
        self._buffer.leave(_PRODUCER)
        self._buffer.end()
        self._learn_what_is_there()
        if self._measured == "ended" and self._curve and self._curve[-1].ended is not None:
            self._measure_the_others()
        seconds = time.perf_counter() - began - self._examined_seconds
        metric, higher_is_better = self._trainer.objective.headline
        return RunResult(
            self._variant.name,
            self._seed,
            metric,
            higher_is_better,
            tuple(self._curve),
            self._samples,
            self._trainer.steps,
            seconds,
            skipped_steps=self._trainer.skipped_steps,
        )

    def _stamp(self, push: Push) -> Stamp:
        flags = int(SampleFlag.EVALUATE) if push.evaluate else 0
        stamp = Stamp(_PRODUCER, 1, 0, push.cursor, self._rows, task=push.task, flags=flags)
        self._rows += push.rows
        return stamp

    def _keep_probe(self, push: Push) -> None:
        fields = {name: torch.from_numpy(np.array(rows)) for name, rows in push.fields.items()}
        columns = torch.from_numpy(provenance(self._stamp(push), push.rows))
        columns[:, Column.TASK] = self._buffer.task_index(push.task)
        probes = Batch(fields, columns, push.rows)
        self._probes.add(probes)
        if self._probes_between is not self._probes:
            self._probes_between.add(probes)

    def _take_in(self, push: Push) -> None:
        reservation = self._buffer.reserve(push.rows)
        assert reservation is not None, "all that was there has been drawn"
        schema = self._buffer.schema
        packed = np.empty(push.rows * schema.row_bytes, np.uint8)
        pack_rows(schema, push.fields, packed)
        reservation.write(0, packed.data)
        self._buffer.commit(reservation, self._stamp(push))

    def _learn_what_is_there(self) -> None:
        while (draw := self._buffer.draw(self._batch_size, 0.0)) is not None:
            self._learn(draw)

    def _learn(self, draw: Draw) -> None:
        for visit in draw.ended_tasks:
            self._trainer.segments.index_of(visit.task)
            self._examine(self._trainer.end_task(visit.task))
        if draw.batch is None:
            self._buffer.release(draw)
            return
        batch, _ = self._transfer(draw)
        self._buffer.release(draw)
        if self._trainer.steps == 0 and self._measured == "all":
            self._examine(None)
        labelled = self._trainer.segments.relabel(batch)
        report = self._trainer.step(batch)
        self._samples += batch.fresh_rows
        self._begun.update(dict.fromkeys(labelled.column(Column.TASK).tolist()))
        if report.boundary is not None:
            for ended in report.boundary.ended:
                self._examine(ended.task)
        if self._every is not None and self._trainer.steps % self._every == 0:
            self._examine(None, between=True)

    def _examine(self, ended_task: int | None, *, between: bool = False) -> None:
        began = time.perf_counter()
        probes = self._probes_between if between else self._probes
        names = self._names()
        self._newest = probes.evaluate(self._trainer, self._to_measure(ended_task))
        ended = None if ended_task is None else names[ended_task]
        begun = tuple(names[task] for task in self._begun)
        moment = Moment(self._samples, self._headlines(), ended, begun, self._means())
        self._curve.append(moment)
        self._examined_seconds += time.perf_counter() - began

    def _to_measure(self, ended_task: int | None) -> list[int] | None:
        """The tasks to measure; None: all."""
        if self._measured == "begun":
            return list(self._begun)
        return [ended_task] if self._measured == "ended" and ended_task is not None else None

    def _measure_the_others(self) -> None:
        """Complete the newest measurement, of the task alone that ended last."""
        began = time.perf_counter()
        others = [task for task in self._probes.counts() if task not in self._newest]
        self._newest = {**self._newest, **self._probes.evaluate(self._trainer, others)}
        self._curve[-1] = replace(self._curve[-1], results=self._headlines(), scores=self._means())
        self._examined_seconds += time.perf_counter() - began

    def _names(self) -> Sequence[str]:
        return self._trainer.segments.names(self._buffer.task_names())

    def _headlines(self) -> dict[str, float]:
        """The newest results by task."""
        names, metric = self._names(), self._trainer.objective.headline.score
        return {names[task]: self._newest[task][metric] for task in sorted(self._newest)}

    def _means(self) -> dict[str, float]:
        """Every newest figure's mean over the tasks begun; of the untrained model over all."""
        measured = [
            figures
            for task, figures in self._newest.items()
            if task in self._begun or not self._begun.keys() & self._newest.keys()
        ]
        return {
            name: statistics.fmean(figures[name] for figures in measured)
            for name in (measured[0] if measured else ())
        }
