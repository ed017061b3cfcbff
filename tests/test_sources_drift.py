"""Streams that drift: the eight Gaussians against their formula, the simulation along its way."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from insitu.errors import OperatorError
from insitu_producers.sources import drifting_gray_scott as simulation_module
from insitu_producers.sources import eight_gaussians as gaussians_module
from insitu_producers.sources import gray_scott_regimes as regimes_module
from insitu_producers.sources import images as images_module
from insitu_producers.sources.drifting_gray_scott import drifting_gray_scott, regime_at
from insitu_producers.sources.eight_gaussians import (
    draw_points,
    eight_gaussians,
    log_density,
)
from insitu_producers.sources.gray_scott import REGIMES, GrayScott, Regime
from insitu_producers.sources.gray_scott_regimes import gray_scott_regimes
from peer import Peer


def reference_centres(time: float) -> list[tuple[float, float]]:
    """As the toy problem is told: +-2.4142 and +-1, shifted by t in x and, above 0, in y."""
    found = []
    for x, y in [(2.4142, 1), (1, 2.4142)]:
        for sign_x in (-1, 1):
            for sign_y in (-1, 1):
                cx, cy = sign_x * x, sign_y * y
                found.append((cx + time, cy + time if cy > 0 else cy))
    return found


@pytest.mark.parametrize("time", [0.0, 0.3, 3.3])
def test_points_are_of_eight_gaussians_with_equal_chance(time: float) -> None:
    points = draw_points(time, 16_000, np.random.default_rng(0))
    assert (points["condition"] == np.float32(time)).all()
    centres = np.array(reference_centres(time))
    offsets = points["x"][:, None] - centres
    nearest = (offsets**2).sum(-1).argmin(1)
    assert stats.chisquare(np.bincount(nearest, minlength=8)).pvalue > 1e-4
    residual = offsets[np.arange(len(nearest)), nearest]
    assert residual.var() == pytest.approx(0.04, rel=0.03)
    assert np.abs(residual.mean(0)).max() < 0.01
    for axis in (0, 1):
        assert stats.kstest(residual[:, axis] / 0.2, "norm").pvalue > 1e-4


def test_the_exact_density_is_one_and_its_mean_is_the_entropy() -> None:
    axis = np.linspace(-5, 7, 400)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for time in (0.0, 1.5):
        density = np.exp(log_density(grid, time))
        assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)
        reference = np.mean(
            [
                stats.multivariate_normal(centre, 0.04 * np.eye(2)).pdf(grid)
                for centre in reference_centres(time)
            ],
            axis=0,
        )
        np.testing.assert_allclose(density, reference, atol=2e-4)
    points = draw_points(0.0, 20_000, np.random.default_rng(1))["x"]
    entropy = math.log(8) + math.log(2 * math.pi * 0.04) + 1
    assert -log_density(points, 0.0).mean() == pytest.approx(entropy, abs=0.03)


def test_the_gaussians_come_step_by_step_and_probes_are_other_points() -> None:
    stream = eight_gaussians(seed=0, steps=3, points=100, held_out_points=30, rows_per_push=64)
    assert stream.tasks == ("t=0.0", "t=0.3", "t=0.6")
    pushes = list(stream)
    assert [push.evaluate for push in pushes] == [True] * 3 + [False] * 6
    trained = {row.tobytes() for push in pushes if not push.evaluate for row in push.fields["x"]}
    probes = {row.tobytes() for push in pushes if push.evaluate for row in push.fields["x"]}
    assert (len(trained), len(probes), len(trained & probes)) == (300, 90, 0)
    assert stream.training_samples == 300 == pushes[-1].cursor
    for push in pushes:
        time = float(push.task.removeprefix("t="))
        np.testing.assert_allclose(push.fields["condition"], time, rtol=1e-6)
    default = eight_gaussians(seed=0)
    assert (len(default.tasks), default.training_samples) == (20, 20 * 2048)
    assert default.tasks[-1] == "t=5.7"
    with pytest.raises(OperatorError, match="steps is 0"):
        eight_gaussians(seed=0, steps=0)


def test_rates_move_along_straight_lines_from_regime_to_regime() -> None:
    last = len(REGIMES) - 1
    for number, regime in enumerate(REGIMES):
        at = regime_at(number / last)
        assert (at.feed, at.kill) == pytest.approx((regime.feed, regime.kill))
    places = np.linspace(0, 1, 301)
    feeds = np.array([regime_at(place).feed for place in places])
    assert np.abs(np.diff(feeds)).max() < 0.001, "no jump anywhere"


def test_the_simulation_drifts_without_a_jump_between_tasks() -> None:
    stream = drifting_gray_scott(
        seed=0, tasks=3, pushes_per_task=4, transient_steps=30, steps_per_push=5, members=3,
        held_out_members=1, size=16, disturbances=0,
    )  # fmt: skip
    pushes = [push for push in stream if not push.evaluate]
    assert stream.training_samples == sum(push.rows for push in pushes) == 24
    assert list(dict.fromkeys(push.task for push in pushes)) == list(stream.tasks)
    changes = [
        float(np.abs(after.fields["x"] - before.fields["x"]).mean())
        for before, after in pairwise(pushes)
    ]
    inside = [change for number, change in enumerate(changes) if number not in (3, 7)]
    assert max(changes[3], changes[7]) <= 1.5 * max(inside)
    evaluated = {row.tobytes() for push in stream if push.evaluate for row in push.fields["x"]}
    trained = {row.tobytes() for push in pushes for row in push.fields["x"]}
    assert evaluated
    assert not evaluated & trained
    again = [push for push in stream if not push.evaluate]
    np.testing.assert_array_equal(again[-1].fields["x"], pushes[-1].fields["x"])
    with pytest.raises(OperatorError, match="held_out_members is 3 of 3"):
        drifting_gray_scott(seed=0, members=3, held_out_members=3)


def test_regimes_come_side_by_side_each_with_its_number_and_rates() -> None:
    """A field is that of a simulation in the regime which its number and rates name."""
    stream = gray_scott_regimes(
        seed=0, pushes=3, transient_steps=20, steps_per_push=5, members=3, held_out_members=1,
        size=16,
    )  # fmt: skip
    pushes = [push for push in stream if not push.evaluate]
    assert stream.training_samples == sum(push.rows for push in pushes) == 3 * 2 * len(REGIMES)
    for push in stream:
        y, rates = push.fields["y"], push.fields["rates"]
        assert np.bincount(y).tolist() == [push.rows // len(REGIMES)] * len(REGIMES)
        wanted = [(REGIMES[number].feed, REGIMES[number].kill) for number in y]
        np.testing.assert_allclose(rates, wanted, rtol=1e-6)
    orders = {tuple(push.fields["y"].tolist()) for push in pushes}
    assert len(orders) == 3, "rows of a push are shuffled"
    evaluated = {row.tobytes() for push in stream if push.evaluate for row in push.fields["x"]}
    trained = {row.tobytes() for push in pushes for row in push.fields["x"]}
    assert (len(evaluated), len(trained)) == (12, 24)
    assert not evaluated & trained
    with pytest.raises(OperatorError, match="held_out_members is 3 of 3"):
        gray_scott_regimes(seed=0, members=3, held_out_members=3)
    with pytest.raises(OperatorError, match="pushes is 0"):
        gray_scott_regimes(seed=0, pushes=0)


def test_the_number_of_a_regime_is_that_of_its_equations() -> None:
    """Undisturbed, one Euler step under the rates that came with a field leads to the next one."""
    stream = gray_scott_regimes(
        seed=1, pushes=2, transient_steps=20, steps_per_push=1, members=1, held_out_members=0,
        size=16, disturbances=0,
    )  # fmt: skip
    before, after = list(stream)
    later = dict(zip(after.fields["y"].tolist(), after.fields["x"], strict=True))
    for number, (u, v), (feed, kill) in zip(
        before.fields["y"].tolist(), before.fields["x"], before.fields["rates"], strict=True
    ):
        simulated = GrayScott(np.random.default_rng(0), members=1, size=16)
        simulated.regime = Regime("as told", feed=float(feed), kill=float(kill))
        simulated.fields[0] = u, v
        simulated.advance(1)
        np.testing.assert_allclose(simulated.fields[0], later[number], atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_the_streams_are_programs_that_push_all_they_have(joint: bool) -> None:
    more = ["--joint"] if joint else []
    programs = [
        (images_module, "images", ["--scenario", "blurry", "--option", "images_per_class=5"], 50),
        (gaussians_module, "eight-gaussians", ["--option", "steps=2", "--option", "points=40"], 80),
        (
            simulation_module,
            "drifting-gray-scott",
            [w for o in ("tasks=2", "pushes_per_task=2", "size=16") for w in ("--option", o)],
            32,
        ),
        (
            regimes_module,
            "gray-scott-regimes",
            [w for o in ("pushes=2", "members=2", "size=16") for w in ("--option", o)],
            8,
        ),
    ]
    for module, name, words, rows in programs:
        with Peer("tcp://127.0.0.1:*") as peer:
            assert module.main(["--endpoint", peer.endpoint, *words, *more]) == 0
            stored = peer.store[f"{name}-source"]
        trained = [data for data, _ in stored.batches if not data.flags & 1]
        assert sum(data.rows for data in trained) == rows
        assert ({data.task for data in trained} == {"joint"}) == joint
        assert any(data.flags & 1 for data, _ in stored.batches)


@pytest.mark.parametrize(
    "module", [images_module, gaussians_module, simulation_module, regimes_module]
)
def test_wrong_options_are_told_in_one_line_and_all_are_listed(
    module: object, capsys: pytest.CaptureFixture[str]
) -> None:
    main = module.main  # type: ignore[attr-defined]
    assert main(["--endpoint", "tcp://127.0.0.1:9", "--option", "colour=red"]) == 2
    assert "no option 'colour'" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "held_out" in capsys.readouterr().out
