"""Classification with one head a task, and a choice of the head where the task is not known.

The model gives features; this objective adds a linear head for every task. In training the task of
a row is known: its head is trained, among the classes that this head has seen, and no other head
gets a gradient. Labels are the same everywhere, whatever the head: tasks may share classes, bring
new ones, and a label of 7 means the same in all. So an answer is right when its class is right,
whichever head gave it.

When asked, nobody need say which task it is: `choice` names the rule by which the head is chosen
(`insitu.objectives.head_choice`), and `choose_for` whether each row chooses for itself or all rows
that are evaluated together choose one head: those of a probe set, which are of one task, or of a
batch. The classes that a head has seen, the means of features and the calibration of energies are
state, which moves in `observe`: of several updates on a batch fresh rows count in the last alone,
replayed ones, drawn anew for each, in all. Heads are scored when they answer, by what was known
then: a head that was never trained is not chosen, and where it is given it answers among all
classes, so accuracy before a task was learned is that of chance among all.

Deviations: with `choice: given` this is `multi_head` on features, but for the masking of classes
that a head has not seen. Tasks beyond the last head share the last one, see there.

Strategies: works with all that know labels only through `losses` and `labels`. Outputs are
features, the logits of all heads, with `class_votes` those of its classifier, and, without
gradient, a score of each head: strategies that read outputs as logits of classes are not defined
(ER-ACE). `distances` compares the logits of heads alone. Rows are independent but for the batch in
which a class appears; the loss is a log likelihood, to which the classifier of `class_votes` adds
its gradient and no value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.batch import Batch, Column
from insitu.objectives.class_means import ClassMeans
from insitu.objectives.class_votes import ClassVotes
from insitu.objectives.head_choice import (
    Choice,
    EnergyCalibration,
    chosen_by_row,
    chosen_by_set,
)
from insitu.objectives.labelled import Classes, Features, Heads, Input, Labelled, Target
from insitu.objectives.nearest_class_mean import Decay
from insitu.schema import Schema


class HeadsNetwork(nn.Module):
    """A model and all heads on its features: inputs -> (features, logits) in a row.

    Args:
        voters: classes of a classifier of all behind them, whose gradient ends at the features; 0:
            none.
    """

    def __init__(self, model: nn.Module, features: int, logits: int, voters: int = 0) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.Linear(features, logits)
        self.votes = nn.Linear(features, voters) if voters else None

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.model(inputs)
        parts = [features.float(), self.heads(features).float()]
        if self.votes is not None:
            parts.append(self.votes(features.detach()).float())
        return torch.cat(parts, dim=1)


class TaskHeads(Labelled):
    """The head of the task answers in training; a chosen one when it is not known.

    Scores: `accuracy`, as `choice` and `choose_for` say; `accuracy_given_head`, with the task
    known; `accuracy_by_row` and `accuracy_by_set`, with a head chosen by each row and by all
    together; `head_found`, the share of rows that choose the head of their task.

    Example:
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
        >>> objective = TaskHeads(schema, heads=2, classes=10, features=4)
        >>> network = objective.network(nn.Linear(2, 4))
        >>> batch = Batch.of({"x": torch.zeros(1, 2), "y": torch.tensor([7])}, task=1)
        >>> outputs = objective.predict(network, batch)
        >>> outputs.shape, objective.losses(outputs, batch).abs().item()
        (torch.Size([1, 26]), 0.0)
    """

    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        heads: Heads,
        classes: Classes,
        features: Features = 64,
        choice: Annotated[
            Choice,
            Field(
                description="given: the head of the row's task; else the rule by which a head is "
                "chosen where tasks are not known"
            ),
        ] = "energy",
        choose_for: Annotated[
            Literal["row", "set"],
            Field(description="each row chooses a head, or all rows of an evaluation choose one"),
        ] = "row",
        decay: Decay = 0.99,
    ) -> None:
        super().__init__(
            schema,
            "task_heads",
            input=input,
            target=target,
            labels=classes,
            output_shape=(features,),
        )
        self.heads, self.classes, self.features = heads, classes, features
        self.choice: Choice = choice
        self.choose_for = choose_for
        self._of_logits = slice(features, features + heads * classes)
        self._seen = torch.zeros(heads, classes, dtype=torch.bool)
        self._means = ClassMeans(heads * classes, features, decay=decay)
        self._energies = EnergyCalibration(heads, decay=decay)
        voters = classes if choice == "class_votes" else 0
        self._votes = ClassVotes(voters)
        self._of_votes = slice(self._of_logits.stop, self._of_logits.stop + voters)

    @property
    def predicted_shape(self) -> tuple[int, ...]:
        return (self._of_votes.stop + self.heads,)

    @property
    def tasks_are_given(self) -> bool:
        return self.choice == "given"

    def network(self, model: nn.Module) -> nn.Module:
        voters = self._of_votes.stop - self._of_votes.start
        return HeadsNetwork(model, self.features, self.heads * self.classes, voters)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = super().predict(model, batch)
        with torch.no_grad():
            scores = self._head_scores(outputs.float())
        return torch.cat((outputs, scores.to(outputs)), dim=1)

    def head_of(self, batch: Batch) -> Tensor:
        """(rows,) int64: the head of every row's task, on the device of the batch."""
        device = batch.fields[self.target_field].device
        tasks = batch.column(Column.TASK).to(device, non_blocking=True)
        return tasks.clamp(0, self.heads - 1)

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) mean squared difference of the logits."""
        return super().distances(outputs[:, self._of_logits], targets[:, self._of_logits])

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        losses = functional.cross_entropy(self._given(outputs, batch), labels, reduction="none")
        if self.choice != "class_votes":
            return losses
        votes = self._votes.losses(outputs[:, self._of_votes].float(), self.is_class(labels))
        return losses + (votes - votes.detach())

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self._given(outputs, batch), batch, generator)

    def _given(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(rows, classes) logits of each row's own head, -inf for what it has not seen."""
        logits = self._logits(self.checked(outputs), self._seen_with(batch))
        return _of_heads(logits, self.head_of(batch))

    def _logits(self, outputs: Tensor, seen: Tensor) -> Tensor:
        """(rows, heads, classes), -inf where a head has not seen a class."""
        logits = outputs[:, self._of_logits].view(len(outputs), self.heads, self.classes)
        return logits.masked_fill(~seen, -math.inf)

    def _seen_with(self, batch: Batch) -> Tensor:
        """(heads, classes) bool: what each head has seen, this batch included."""
        labels, heads = self.labels(batch), self.head_of(batch)
        own = heads.unsqueeze(1) == torch.arange(self.heads, device=heads.device)
        present = own.to(torch.float32).T @ self.is_class(labels).to(torch.float32)
        return self._seen.to(labels.device) | (present > 0)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels, given = self.labels(batch), self.head_of(batch)
        outputs = self.checked(outputs)
        scores = outputs[:, -self.heads :]
        # by what was known when it answered: the batch would tell a new head its classes
        never_trained = torch.isneginf(scores).all(dim=0).unsqueeze(1)
        logits = self._logits(outputs, self._seen_with(batch) | never_trained)
        by_row, by_set = chosen_by_row(scores), chosen_by_set(scores)
        if self.choice == "given":
            by_row = by_set = given

        def accuracy(heads: Tensor) -> Tensor:
            return self.share_of(_of_heads(logits, heads).argmax(dim=1) == labels, labels)

        found = {
            "accuracy_given_head": accuracy(given),
            "accuracy_by_row": accuracy(by_row),
            "accuracy_by_set": accuracy(by_set),
            "head_found": (by_row == given).float().mean(),
        }
        return {"accuracy": found[f"accuracy_by_{self.choose_for}"], **found}

    def _head_scores(self, outputs: Tensor) -> Tensor:
        """(rows, heads): how well each head would answer each row, by what is known now."""
        self._seen = self._seen.to(outputs.device)
        logits = self._logits(outputs, self._seen)
        if self.choice == "maximum_logit":
            return logits.amax(dim=2)
        if self.choice == "energy":
            return self._energies.calibrated(logits.logsumexp(dim=2))
        if self.choice == "nearest_mean":
            nearness = self._means.logits(outputs[:, : self.features], 1.0)
            nearness = nearness.masked_fill(~self._means.seen, -math.inf)
            return nearness.view(len(outputs), self.heads, self.classes).amax(dim=2)
        if self.choice == "class_votes":
            return self._votes.scores(outputs[:, self._of_votes], self._seen)
        zeros = outputs.new_zeros(len(outputs), self.heads)
        return zeros.masked_fill(~self._seen.any(dim=1), -math.inf)

    def observe(self, outputs: Tensor, batch: Batch, *, last: bool = True) -> None:
        self._seen = self._seen_with(batch)
        if self.choice == "class_votes":
            self._votes.count(self.is_class(self.labels(batch)))
        start = 0 if last else batch.fresh_rows
        if start == len(outputs):
            return
        labels, heads = self.labels(batch)[start:], self.head_of(batch)[start:]
        energies = self._logits(outputs, self._seen)[start:].logsumexp(dim=2)
        self._energies.count(energies, heads)
        features = outputs[start:, : self.features].float()
        self._means.count(features, heads * self.classes + labels)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self._seen,
            **{f"class_{key}": value for key, value in self._means.state_dict().items()},
            **{f"energy_{key}": value for key, value in self._energies.state_dict().items()},
            **{f"votes_{key}": value for key, value in self._votes.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        own = self.state_dict()
        fitting = {key: self.fitting(key, state[key], tensor) for key, tensor in own.items()}
        self._seen = fitting["seen"]
        parts: dict[str, ClassMeans | EnergyCalibration | ClassVotes] = {
            "class_": self._means,
            "energy_": self._energies,
            "votes_": self._votes,
        }
        for prefix, part in parts.items():
            part.load_state_dict(
                {k.removeprefix(prefix): v for k, v in fitting.items() if k.startswith(prefix)}
            )


def _of_heads(logits: Tensor, heads: Tensor) -> Tensor:
    """(rows, classes) of (rows, heads, classes): each row's own head."""
    index = heads.view(-1, 1, 1).expand(-1, 1, logits.shape[2])
    return logits.gather(1, index).squeeze(1)


COMPONENT = TaskHeads
