"""Thirty losses of a fixed small run, by objective and strategies: a refactor may not move them.

On one machine a refactor must be bit-identical; processors differ in the last bits of a sum, so
the files are compared with a relative tolerance of 1e-5. The runs use SGD, since Adam's division
by the root of a tiny second moment would blow such bits up.

When a change of the learning is intended, write the files anew and say why in the commit:

    python tests/test_golden_losses.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from learning import Setup, stream

GOLDEN = Path(__file__).parent / "golden"
#: what a refactor is held by; the others have parity tests of their own
GOLDEN_OBJECTIVES = ("classify", "regress", "reconstruct")
COMBINATIONS: list[tuple[str, ...]] = [
    (),
    ("replay",),
    ("online_ewc",),
    ("replay", "online_ewc"),
]
TASKS, STEPS_PER_TASK = 3, 10


def golden_file(objective: str, strategies: tuple[str, ...]) -> Path:
    return GOLDEN / f"losses_{objective}_{'+'.join(strategies) or 'none'}.txt"


def losses(objective: str, strategies: tuple[str, ...]) -> list[float]:
    """The losses of three tasks in turn, of ten steps each."""
    trainer = Setup(objective, strategies, optimizer="SGD", learning_rate=0.1).trainer(
        gradient_clip_norm=5.0
    )
    found = []
    for task in range(TASKS):
        for batch in stream(objective, STEPS_PER_TASK, rows=16, task=task):
            found.append(trainer.step(batch).loss.item())
        trainer.end_task(task)
    return found


@pytest.mark.parametrize("strategies", COMBINATIONS, ids=lambda s: "+".join(s) or "none")
@pytest.mark.parametrize("objective", GOLDEN_OBJECTIVES)
def test_losses_are_the_golden_ones(objective: str, strategies: tuple[str, ...]) -> None:
    expected = [float(line) for line in golden_file(objective, strategies).read_text().split()]
    assert len(expected) == TASKS * STEPS_PER_TASK
    assert losses(objective, strategies) == pytest.approx(expected, rel=1e-5)


def test_every_combination_has_losses_of_its_own() -> None:
    for objective in GOLDEN_OBJECTIVES:
        texts = {golden_file(objective, strategies).read_text() for strategies in COMBINATIONS}
        assert len(texts) == len(COMBINATIONS), objective


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for objective in GOLDEN_OBJECTIVES:
        for strategies in COMBINATIONS:
            lines = [f"{loss:.9g}" for loss in losses(objective, strategies)]
            golden_file(objective, strategies).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
