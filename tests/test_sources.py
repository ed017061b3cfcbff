"""The sources: every row once, held-out rows apart, the solver equal to its equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from insitu_producers.sources.digits import digit_pushes, load_digits
from insitu_producers.sources.feed import Push, paced, split
from insitu_producers.sources.gray_scott import REGIMES, GrayScott, Regime
from insitu_producers.sources.reaction_diffusion import reaction_diffusion_pushes
from insitu_producers.sources.synthetic import synthetic_pushes


@given(
    seed=st.integers(0, 2**32),
    classes_per_task=st.integers(1, 10),
    held_out_ratio=st.floats(0.0, 0.9),
    rows_per_push=st.integers(1, 100),
)
def test_digits_come_once_in_their_task(
    seed: int, classes_per_task: int, held_out_ratio: float, rows_per_push: int
) -> None:
    labels = np.arange(200) % 10
    digits = {"x": np.arange(200, dtype=np.float32)[:, None], "y": labels}
    pushes = list(
        digit_pushes(
            digits,
            seed=seed,
            classes_per_task=classes_per_task,
            held_out_ratio=held_out_ratio,
            rows_per_push=rows_per_push,
        )
    )
    seen = np.concatenate([push.fields["x"][:, 0] for push in pushes]).astype(int)
    assert sorted(seen) == list(range(200))
    assert all(0 < push.rows <= rows_per_push for push in pushes)
    held_out = sum(push.rows for push in pushes if push.evaluate)
    assert held_out == 10 * round(20 * held_out_ratio)
    for push in pushes:
        first, last = int(push.task.split("-")[0]), int(push.task.split("-")[-1])
        assert ((push.fields["y"] >= first) & (push.fields["y"] <= last)).all()
        assert (labels[push.fields["x"][:, 0].astype(int)] == push.fields["y"]).all()
    tasks = [push.task for push in pushes]
    assert tasks == sorted(tasks, key=lambda task: int(task.split("-")[0]))


def test_digits_are_the_real_ones_and_the_seed_decides() -> None:
    digits = load_digits()
    assert digits["x"].shape == (1797, 64)
    assert digits["x"].dtype == np.float32
    assert (digits["x"].min(), digits["x"].max()) == (0.0, 1.0)

    def order(seed: int) -> bytes:
        return b"".join(push.fields["x"].tobytes() for push in digit_pushes(digits, seed=seed))

    assert order(1) == order(1)
    assert order(1) != order(2)


def reference_step(fields: NDArray[np.float64], regime: Regime) -> NDArray[np.float64]:
    """One Euler step of the two equations, written as they stand in the paper."""
    u, v = fields

    def laplacian(a: NDArray[np.float64]) -> NDArray[np.float64]:
        neighbours = [np.roll(a, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        return np.sum(neighbours, axis=0) - 4 * a

    du = 0.16 * laplacian(u) - u * v**2 + regime.feed * (1 - u)
    dv = 0.08 * laplacian(v) + u * v**2 - (regime.feed + regime.kill) * v
    return np.stack((u + du, v + dv))


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_gray_scott_follows_its_equations(regime: Regime) -> None:
    simulation = GrayScott(np.random.default_rng(3), members=2, size=24)
    simulation.begin(regime, patches=4)
    expected = [member.astype(np.float64) for member in simulation.fields]
    simulation.advance(50)
    for member in range(2):
        for _ in range(50):
            expected[member] = reference_step(expected[member], regime)
        np.testing.assert_allclose(simulation.fields[member], expected[member], atol=2e-5)


def test_regimes_grow_patterns_of_their_own() -> None:
    """Mean and spread of v tell the regimes apart, and nothing dies out or blows up."""
    simulation = GrayScott(np.random.default_rng(0), members=3, size=48)
    spread = {}
    for push in reaction_diffusion_pushes(
        simulation, held_out_members=0, transient_steps=1200, pushes_per_regime=1
    ):
        v = push.fields["x"][:, 1]
        assert np.isfinite(push.fields["x"]).all()
        assert v.std() > 0.03
        spread[push.task] = (float(v.mean()), float(v.std()))
    assert list(spread) == [regime.name for regime in REGIMES]
    values = np.array(list(spread.values()))
    distances = np.abs(values[:, None] - values[None]).max(axis=-1)
    assert distances[~np.eye(len(REGIMES), dtype=bool)].min() > 0.01


def test_held_out_members_are_never_trained() -> None:
    simulation = GrayScott(np.random.default_rng(0), members=4, size=16)
    pushes = reaction_diffusion_pushes(
        simulation, held_out_members=1, transient_steps=5, steps_per_push=5, pushes_per_regime=2
    )
    evaluated, trained, cursors = set(), set(), []
    for push in pushes:
        rows = {row.tobytes() for row in push.fields["x"]}
        (evaluated if push.evaluate else trained).update(rows)
        cursors.append(push.cursor)
    assert len(evaluated) == 2 * len(REGIMES)
    assert len(trained) == 3 * 2 * len(REGIMES)
    assert not evaluated & trained
    assert cursors == sorted(cursors)


def test_disturbances_keep_the_patterns_moving() -> None:
    """Spots settle when left alone; disturbed ones go on changing."""

    def change(disturbances: int) -> float:
        simulation = GrayScott(np.random.default_rng(0), members=2, size=32)
        pushes = reaction_diffusion_pushes(
            simulation,
            REGIMES[:1],
            held_out_members=0,
            transient_steps=4000,
            pushes_per_regime=4,
            disturbances=disturbances,
        )
        fields = [push.fields["x"].copy() for push in pushes]
        return float(np.abs(fields[-1] - fields[0]).mean())

    assert change(2) > 5 * change(0)


@given(rows=st.integers(1, 50), rows_per_push=st.integers(1, 60))
def test_split_keeps_every_row_in_order(rows: int, rows_per_push: int) -> None:
    pieces = list(split({"x": np.arange(rows)}, rows_per_push))
    assert np.concatenate([piece["x"] for piece in pieces]).tolist() == list(range(rows))
    assert all(len(piece["x"]) == rows_per_push for piece in pieces[:-1])


def test_paced_holds_the_rate() -> None:
    import time

    pushes = [Push({"x": np.zeros(10)}, task="t") for _ in range(6)]
    start = time.monotonic()
    assert len(list(paced(pushes, rows_per_second=300.0))) == 6
    assert time.monotonic() - start >= 0.19


def test_synthetic_stops_by_count_and_by_time() -> None:
    rows = [
        push.rows for push in synthetic_pushes(0, rows_per_push=5, floats=2, pushes=4, seconds=0)
    ]
    assert rows == [5, 5, 5, 5]
    timed = list(synthetic_pushes(0, rows_per_push=5, floats=2, pushes=0, seconds=0.01))
    assert timed
