"""The training step, as the papers write it.

    augment, normalise, forward, losses + penalties, backward, adjust gradients, check, clip,
    update, adjust weights, observe

Notable decisions:

- Losses and scores are *prequential* (Dawid 1984): taken from the forward pass before the update,
  on samples that were never trained. They cost no second pass, and scores that nobody reads
  nothing at all.
- Rows are normalised by what was counted before them, and counted once their step is made; only
  the very first ones are counted first, since there is nothing else to go by.
- The loss of a step is the mean over its rows, fresh and replayed alike, after the strategies had
  their say on each row's.
- Several updates on one batch are several whole updates: remembered rows are drawn anew for each.
  Fresh rows are counted once all the same, by normaliser, objective and memories, after the last
  update, and so not at all where a later one had to be skipped.
- Nothing in the step makes a GPU wait except one look at loss and gradient norm, between backward
  and update. Whether a step may be made has to be known before weights, moments, schedule and
  memory move; an optimizer with momentum or weight decay moves even on a gradient of zeros, so
  zeroing a bad gradient would not be exact. On the CPU the look is free.
- The norm over all gradients is taken when they are clipped, and else every so many steps; whether
  they are finite is told by a witness in every layer, see `insitu.trainer.gradients`.
- bfloat16 means autocast around the model only. Weights, losses, penalties, gradients and moments
  stay float32, so there is no loss scaling.
- Hebbian layers (`insitu.layers`) record in this forward pass and in no other, and move together
  with the weights that the optimizer moves; strategies that modulate them do so before, in
  `adjust_gradients`.
- An update that runs out of memory is made again in micro-batches, with the same gradient.
- A skipped step leaves model, optimizer, schedule, normaliser and strategies as they were; only
  random generators have moved (remembered rows were drawn, dropout was thrown).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion, Precision
from insitu.detection.watch import DriftWatch
from insitu.errors import InternalError, OperatorError
from insitu.evaluation import Evaluation, evaluation_mode
from insitu.layers.update import HebbianUpdate
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.optimization import Schedule, load_optimizer_state, optimizer_state
from insitu.report import Boundary, StepReport
from insitu.segments import EndedTask, Segments
from insitu.strategies.base import Observation, Strategy
from insitu.trainer import state
from insitu.trainer.bad_batch import explained
from insitu.trainer.gradients import clip, gradient_norm, witnesses
from insitu.trainer.graphs import mover
from insitu.trainer.micro_batches import MicroBatches, OutOfMemory, Passes, is_out_of_memory
from insitu.trainer.naming import named
from insitu.trainer.non_finite import NonFinite, NonFiniteLoss
from insitu.trainer.phases import PhaseClock
from insitu.trainer.placement import device_of, on_device
from insitu.trainer.reporting import Forward, Passed, Update, report, scores_when_asked
from insitu.trainer.verbs import Verbs

#: how often the norm over all gradients is taken where nothing clips by it
NORM_EVERY_STEPS = 50


class Trainer:
    """Owns model, optimizer and strategies; takes batches, gives reports.

    Args:
        model: on its device already; may be wrapped by `torch.compile`. The state keeps the names
            of the module inside.
        objective: what to do with a batch.
        optimizer: over the model's parameters.
        schedule: stepped after every update, or None.
        strategies: in the order in which their verbs run. Their names in reports and in the state
            are their own; a second one of the same name becomes `name_2`.
        normaliser: counts fresh rows and maps all rows, or None. Moved to the model's device.
        precision: `bfloat16` runs the model under autocast.
        gradient_clip_norm: largest L2 norm over all gradients, or None.
        non_finite: what to do when loss or gradient is not finite, see `NonFinite`.
        device: where the model is and batches go; by default the device of the parameters.
        updates_per_batch: updates on each batch of fresh rows, every one with remembered rows drawn
            anew; 1 or more.
        watch: detectors of drift, or None. Where one declares a boundary, the tasks that had rows
            since the last one end, and rows that follow count as new tasks, see `insitu.segments`.
        cuda_graphs: what Hebbian layers do in a step is captured, see `insitu.trainer.graphs`.

    Raises:
        OperatorError: the model has no trainable parameter or is on another device; `cuda_graphs`
            where there is nothing to capture, or no CUDA device.

    Example:
        >>> from insitu.objectives.classify import Classify
        >>> from insitu.schema import Schema
        >>> _ = torch.manual_seed(0)
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
        >>> model = nn.Linear(2, 2)
        >>> trainer = Trainer(model, Classify(schema, classes=2),
        ...                   torch.optim.SGD(model.parameters(), lr=1.0))
        >>> stream = (torch.randn(32, 2) for _ in range(100))
        >>> for x in stream:
        ...     report = trainer.step(Batch.of({"x": x, "y": (x[:, 0] > 0).long()}))
        >>> report.step, report.fresh_samples, report.scores["accuracy"].item() > 0.9
        (100, 32, True)
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule | None = None,
        strategies: Sequence[Strategy] = (),
        normaliser: Normaliser | None = None,
        precision: Precision = "float32",
        gradient_clip_norm: float | None = None,
        non_finite: NonFinite = "skip",
        device: torch.device | str | None = None,
        updates_per_batch: int = 1,
        watch: DriftWatch | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self.model = model
        #: the plain module where `model` is a compiled wrapper, else the model itself
        self.module: nn.Module = getattr(model, "_orig_mod", model)
        if updates_per_batch < 1:
            raise OperatorError(f"updates_per_batch is {updates_per_batch}", allowed="1 or more")
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.strategies = named(strategies)
        self._verbs = Verbs(tuple(self.strategies.values()))
        self.updates_per_batch = updates_per_batch
        self.gradient_clip_norm = gradient_clip_norm
        self.non_finite = non_finite
        self.device = device_of(self.module, device)
        self.normaliser = None if normaliser is None else normaliser.to(self.device)
        self.criterion = Criterion(model, objective, self.normaliser, precision=precision)
        self.watch = watch
        #: from the producers' tasks to those that strategies know
        self.segments = Segments()
        #: steps so far, the skipped ones among them
        self.steps = 0
        self.skipped_steps = 0
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        self._witnesses = witnesses(self.module)
        hebbian = HebbianUpdate(self.module, record_always=False)
        self._hebbian = hebbian if hebbian.layers or hebbian.standardisations else None
        self._move_hebbian = mover(model, self._hebbian, self.device, by_graphs=cuda_graphs)
        self._row_weights = torch.empty(0, device=self.device)
        #: how many rows fit into memory, once that has run out
        self.micro_batches = MicroBatches(
            self.criterion, self.device, forward_learns=self._hebbian is not None
        )

    def step(self, batch: Batch) -> StepReport:
        """Train one batch, `updates_per_batch` times in a row.

        Args:
            batch: fresh rows, not normalised; on any device; nobody writes to them.

        Returns:
            What was done; its tensors stay on the device. Losses and scores are those before the
            first update, so they are of rows that were never trained.

        Raises:
            NonFiniteLoss: before an update, under `stop` and `rollback`.
            OutOfMemory: an update of a single row does not fit; it was not made. Of several
                updates on a batch those before it were.
            OperatorError: the model's outputs have another shape than the objective's; the batch
                lacks a field, or has a label out of range. Nothing has changed then.
        """
        if batch.rows == 0:
            raise InternalError("a batch of 0 rows came to be trained", allowed="1 row or more")
        clock = PhaseClock()
        arrived = batch
        batch = on_device(self.segments.relabel(batch), self.device)
        clock.ends("copy")
        try:
            counted = self._count_first(batch)
        except KeyError as error:
            raise explained(error, self.objective, batch) from error
        self.steps += 1
        first = self._update(batch, clock, number=1, counted=counted)
        self.skipped_steps += not first.made
        replayed, update = first.forward.batch.replayed_rows, 2
        done = first
        while update <= self.updates_per_batch and done.made:
            done = self._update(batch, clock, number=update, counted=counted)
            replayed += done.forward.batch.replayed_rows
            update += 1
        boundary = None
        if first.made:
            self.segments.count(arrived)
        if self.watch is not None and first.made and batch.fresh_rows:
            boundary = self._look_for_a_boundary(self.watch, batch, first.forward)
            clock.ends("strategy")
        return report(first, self.steps, replayed, clock.seconds, boundary)

    def _look_for_a_boundary(
        self, watch: DriftWatch, raw: Batch, forward: Forward
    ) -> Boundary | None:
        """Show the detectors the fresh rows, as they were before the first update."""
        rows = raw.fresh_rows
        outputs, losses = forward.outputs.detach()[:rows], forward.losses.detach()[:rows]
        detectors = watch.update(Observation(raw.fresh(), outputs, losses, self.steps))
        return Boundary(detectors, self.declare_boundary()) if detectors else None

    def _update(self, batch: Batch, clock: PhaseClock, *, number: int, counted: bool) -> Update:
        """Augment, forward, losses + penalties, backward, adjust, check, clip, update, observe."""
        verbs, last = self._verbs, number == self.updates_per_batch
        for strategy in verbs.augment:
            batch = strategy.augment(batch)
        clock.ends("strategy")

        passed = self._passed(batch, clock, counted and number == 1)
        forward, total, penalties = passed.forward, passed.total, passed.penalties
        for strategy in verbs.adjust_gradients:
            strategy.adjust_gradients()
        clock.ends("strategy")

        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = gradient_norm(gradients) if self._takes_norm() else None
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        made = self._is_finite(total, norm)
        if made:
            self._move(gradients, norm)
            if last and not counted:
                self._count(batch)
        else:
            norm = self._refuse(total, gradients, counted and number == 1)
        clock.ends("optimizer")

        if made:
            self._observe(batch, forward, last=last)
            clock.ends("strategy")
        return Update(forward, penalties, norm, learning_rate, made)

    def _passed(self, batch: Batch, clock: PhaseClock, counted: bool) -> Passed:
        """Forward and backward, again in smaller pieces as long as memory runs out."""
        while True:
            try:
                return self._pass(batch, clock, counted)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # only here is all let go of that the error's traceback held
            self._forget_gradients()
            try:
                self.micro_batches.shrink(batch.rows)
            except OutOfMemory:
                self._abandon(counted)
                raise

    def _pass(self, batch: Batch, clock: PhaseClock, counted: bool) -> Passed:
        """Forward, losses + penalties, backward."""
        try:
            normalised = self.criterion.normalised(batch)
            pieces = self.micro_batches.passes(normalised)
            forward = self._forward(normalised, pieces)
        except (KeyError, IndexError) as error:
            self._abandon(counted)
            raise explained(error, self.objective, batch) from error
        clock.ends("forward")

        losses = forward.losses
        for strategy in self._verbs.losses:
            losses = strategy.losses(forward.batch, forward.outputs, losses)
        penalties = {}
        for strategy in self._verbs.penalty:
            penalty = strategy.penalty(forward.batch, forward.outputs)
            if penalty is not None:
                penalties[strategy.name] = penalty
        clock.ends("strategy")

        self._forget_gradients()
        total = self._backward(losses, tuple(penalties.values()))
        if pieces is not None:
            pieces.backward(forward.outputs)
        clock.ends("backward")
        return Passed(forward, total, {name: each.detach() for name, each in penalties.items()})

    def _abandon(self, counted: bool) -> None:
        """There will be no update: be as before the step."""
        self.steps -= 1
        self._uncount(counted)
        if self._hebbian is not None:
            self._hebbian.discard()

    def is_finite(self) -> bool:
        """Whether every weight and buffer of the model is a number; waits for the device."""
        values = [t for t in self.module.state_dict().values() if t.is_floating_point()]
        return all(bool(value.isfinite().all()) for value in values)

    def end_task(self, task: int) -> int:
        """Consolidate: the producers' task with this index has ended, all its samples trained.

        A task may end more than once, and one that had no samples since changes nothing.

        Returns:
            The task's index as strategies know it: that of its newest segment.

        Raises:
            OperatorError: `task` is no whole number of 0 or more.
        """
        if not isinstance(task, int) or isinstance(task, bool) or task < 0:
            raise OperatorError(
                f"the task that ended is {task!r}",
                allowed="the index of a task, a whole number of 0 or more",
                consequence="nothing was consolidated",
            )
        index = self.segments.end(task)
        self._consolidate((index,))
        return index

    def declare_boundary(self) -> tuple[EndedTask, ...]:
        """End the tasks that had rows since the last boundary; what follows are new tasks.

        Returns:
            What ended; nothing, and then nothing was done, where no task had rows.
        """
        ended = self.segments.declare_boundary()
        if ended:
            self._consolidate([each.task for each in ended])
        return ended

    def _consolidate(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            for strategy in self.strategies.values():
                strategy.end_task(task)
        if self.watch is not None:
            self.watch.boundary()

    @torch.no_grad()
    def evaluate(self, batch: Batch, *, rows_at_once: int = 256) -> Evaluation:
        """Loss and scores of a held-out batch, as means over all its rows at once.

        The model is in evaluation mode, statistics of the normaliser and strategies do not move.

        Args:
            batch: raw rows, as for `step`.
            rows_at_once: rows of one forward pass, which bounds the memory of activations.
        """
        batch = self.criterion.normalised(on_device(batch, self.device))
        with evaluation_mode(self.module):
            starts = range(0, max(batch.rows, 1), rows_at_once)
            parts = (batch.select(slice(start, start + rows_at_once), 0) for start in starts)
            outputs = torch.cat([self.criterion.outputs(part) for part in parts])
        scores = self.objective.scores(outputs, batch)
        return Evaluation(
            samples=batch.rows,
            loss=self.objective.losses(outputs, batch).mean().item(),
            scores={name: score.item() for name, score in scores.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as nested plain data.

        Tensors are the live ones: copy them before the next step. The default random generators
        of torch are part of it (dropout draws from them), so loading sets them for the process.
        """
        return {
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "model": dict(self.module.state_dict()),
            "optimizer": optimizer_state(self.optimizer),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "normaliser": None if self.normaliser is None else self.normaliser.state_dict(),
            "objective": self.objective.state_dict(),
            "strategies": {name: part.state_dict() for name, part in self.strategies.items()},
            "segments": self.segments.state_dict(),
            "watch": None if self.watch is None else self.watch.state_dict(),
            "generators": state.of_generators(self.device),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a state; the next steps are bit-identical to those of the saved run.

        Raises:
            OperatorError: the state is of another model, optimizer, schedule or strategies; this
                trainer may then be half loaded and is not to be used.
        """
        state.check_keys("the state of the trainer", saved, self.state_dict())
        state.check_keys("the state of the strategies", saved["strategies"], self.strategies)
        for part in ("schedule", "normaliser", "watch"):
            state.check_presence(part, saved[part], getattr(self, part))
        state.load_model(self.module, saved["model"])
        load_optimizer_state(self.optimizer, saved["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(saved["schedule"])
        if self.normaliser is not None:
            self.normaliser.load_state_dict(saved["normaliser"])
        self.objective.load_state_dict(saved["objective"])
        for name, strategy in self.strategies.items():
            strategy.load_state_dict(saved["strategies"][name])
        self.segments.load_state_dict(saved["segments"])
        if self.watch is not None:
            self.watch.load_state_dict(saved["watch"])
        self.steps = int(saved["steps"])
        self.skipped_steps = int(saved["skipped_steps"])
        state.load_generators(saved["generators"], self.device)

    def _count_first(self, batch: Batch) -> bool:
        """Count the very first rows before they are normalised; later ones after their step."""
        first = self.normaliser is not None and self.normaliser.samples == 0
        if first:
            self._count(batch)
        return first

    def _uncount(self, counted: bool) -> None:
        """The very first rows were counted first, and were not trained."""
        if self.normaliser is not None and counted:
            self.normaliser.reset()

    def _count(self, batch: Batch) -> None:
        if self.normaliser is not None:
            self.normaliser.update(batch)

    def _forward(self, batch: Batch, pieces: Passes | None) -> Forward:
        if pieces is not None:
            outputs = pieces.forward()
        elif self._hebbian is None:
            outputs = self.criterion.outputs(batch)
        else:
            with self._hebbian.recording(self.objective.labels(batch)):
                outputs = self.criterion.outputs(batch)
        losses = self.objective.losses(outputs, batch)
        score = scores_when_asked(self.objective, batch, outputs.detach())
        return Forward(batch, outputs, losses, score)

    def _forget_gradients(self) -> None:
        """As `optimizer.zero_grad`, without its profiling, which costs more than the work."""
        for parameter in self._parameters:
            parameter.grad = None

    def _backward(self, losses: Tensor, penalties: tuple[Tensor, ...]) -> Tensor:
        """Gradients of the mean loss plus the penalties; gives its value, 0-dim.

        Starting at the rows with a weight of 1 / rows each is what a mean does, less two nodes.
        """
        if self._row_weights.shape != losses.shape or self._row_weights.dtype != losses.dtype:
            self._row_weights = torch.full_like(losses.detach(), 1.0 / len(losses))
        weights = (self._row_weights, *[None] * len(penalties))
        torch.autograd.backward((losses, *penalties), weights)
        total = losses.detach().mean()
        for penalty in penalties:
            total = total + penalty.detach()
        return total

    def _takes_norm(self) -> bool:
        return self.gradient_clip_norm is not None or self.steps % NORM_EVERY_STEPS == 1

    def _is_finite(self, total: Tensor, norm: Tensor | None) -> bool:
        """One look at loss and gradients; a GPU has to finish the backward pass for it."""
        if norm is not None:
            seen = [norm]
        else:
            grads = [p.grad for p in self._witnesses if p.grad is not None]
            seen = list(torch._foreach_norm(grads)) if grads else []
        if self.device.type == "cpu":
            return all(math.isfinite(value.item()) for value in (total, *seen))
        return math.isfinite(torch.stack([total.detach(), *seen]).sum().item())

    def _move(self, gradients: list[Tensor], norm: Tensor | None) -> None:
        if self.gradient_clip_norm is not None and norm is not None and gradients:
            clip(gradients, norm, self.gradient_clip_norm)
        self.optimizer.step()
        self._move_hebbian()
        for strategy in self._verbs.adjust_weights:
            strategy.adjust_weights()
        if self.schedule is not None:
            self.schedule.step()

    def _refuse(self, total: Tensor, gradients: list[Tensor], counted: bool) -> Tensor:
        """Leave everything as it was before the step; the norm that tells why."""
        norm = gradient_norm(gradients)
        self._uncount(counted)
        self._forget_gradients()
        if self._hebbian is not None:
            self._hebbian.discard()
        if self.non_finite != "skip":
            self.steps -= 1
            raise NonFiniteLoss(self.steps + 1, total.item(), norm.item(), self.non_finite)
        return norm

    def _observe(self, raw: Batch, forward: Forward, *, last: bool) -> None:
        outputs = forward.outputs.detach()
        self.objective.observe(outputs, forward.batch, last=last)
        if self._verbs.observe:
            losses = forward.losses.detach()
            observation = Observation(raw, outputs, losses, self.steps, last)
            for strategy in self._verbs.observe:
                strategy.observe(observation)
