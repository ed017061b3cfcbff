"""What every detector promises; all checks run on every detector of the catalogue alike."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from insitu.batch import Batch
from insitu.component import catalogue, find
from insitu.detection import Detector, DriftWatch
from insitu.detection.late_reading import LateReading
from insitu.errors import OperatorError
from insitu.layers.learning_rates import ConstantRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.softhebb import SoftHebb
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation
from insitu_service.documentation.pages import docstring, paragraph
from learning import assert_same, copied, generator, make_objective

DETECTORS = sorted(catalogue("insitu.detection"))
every_detector = pytest.mark.parametrize("name", DETECTORS)

#: those that look at what a layer answered in the step's forward pass
ON_LAYERS = ("winner_divergence",)

#: those that look at the loss
ON_LOSS = ("adwin", "page_hinkley", "plateau")


def make(name: str, seed: int = 1, objective: Objective | None = None, **options: Any) -> Detector:
    layer = HebbianLinear(6, 12, SoftHebb(), ConstantRates(0.1), generator=generator(0))
    parts = {
        "objective": objective or make_objective("classify"),
        "generator": generator(seed),
        "device": torch.device("cpu"),
        "model": layer,
    }
    detector: Detector = catalogue("insitu.detection")[name].build(options, parts)
    if name in ON_LAYERS:
        update = detector.update

        def forward_first(observation: Observation) -> bool:
            layer(observation.batch.fields["x"])  # as a trainer would have
            return update(observation)

        detector.update = forward_first  # type: ignore[method-assign]
    return detector


def observation(step: int, *, regime: int = 0, rows: int = 8, since: int = 100) -> Observation:
    """A step in which loss, inputs and labels tell of the regime; steps since it began."""
    random = generator(step)
    x = torch.randn(rows, 6, generator=random) + 3.0 * regime
    y = torch.randint(0, 2, (rows,), generator=random) + 2 * (regime % 2)
    height = 1.0 + 9.0 * (regime > 0) * 0.9**since
    losses = height * (1.0 + 0.1 * torch.randn(rows, generator=random))
    return Observation(Batch.of({"x": x, "y": y}), torch.zeros(rows, 4), losses, step)


def told(detector: Detector, quiet: int = 150, after: int = 60, **options: Any) -> list[int]:
    """Steps at which it tells of a change; the regime changes after `quiet` steps."""
    found = [s for s in range(1, quiet + 1) if detector.update(observation(s, **options))]
    for since in range(after):
        step = quiet + 1 + since
        if detector.update(observation(step, regime=1, since=since, **options)):
            found.append(step)
    return found


@every_detector
def test_it_finds_the_change_and_nothing_else(name: str) -> None:
    found = told(make(name))
    assert len(found) == 1
    assert 151 <= found[0] <= 200


@every_detector
def test_batches_of_one_sample_are_enough(name: str) -> None:
    found = told(make(name), rows=1)
    assert len(found) == 1
    assert 151 <= found[0] <= 200


@every_detector
def test_nothing_changes_in_a_long_stream_that_does_not(name: str) -> None:
    assert told(make(name), quiet=1500, after=0) == []


@every_detector
@pytest.mark.parametrize("loss", [0.0, 2.5])
def test_a_constant_stream_has_no_changes(name: str, loss: float) -> None:
    detector, rows = make(name), 4
    batch = Batch.of({"x": torch.ones(rows, 6), "y": torch.ones(rows, dtype=torch.int64)})
    shown = Observation(batch, torch.zeros(rows, 4), torch.full((rows,), loss), 1)
    assert not any(detector.update(shown) for _ in range(300))


@every_detector
def test_what_is_not_finite_is_passed_over(name: str) -> None:
    detector = make(name)
    for step in range(1, 100):
        detector.update(observation(step))
    before = copied(detector.state_dict())
    good = observation(100)
    for value in (float("nan"), float("inf"), float("-inf")):
        fields = {"x": torch.full((8, 6), value), "y": torch.zeros(0, dtype=torch.int64)}
        batch = Batch(fields, good.batch.provenance, 8)
        losses = torch.full((8,), value)
        assert not detector.update(Observation(batch, good.outputs, losses, 100))
    assert_same(copied(detector.state_dict()), before)


@every_detector
def test_it_starts_anew_when_it_has_found_a_change(name: str) -> None:
    detector, fresh = make(name), make(name)
    step = 0
    while True:
        step += 1
        regime = int(step > 150)
        if detector.update(observation(step, regime=regime, since=max(0, step - 151))):
            break
        assert step < 250
    later = [observation(1000 + i, regime=1) for i in range(80)]
    if name == "feature_divergence":  # its directions stay
        fresh.update(later[0])
        fresh.load_state_dict({**copied(fresh.state_dict())})
        fresh.reset()
        assert [detector.update(each) for each in later] == [fresh.update(each) for each in later]
        return
    assert_same(copied(detector.state_dict()), copied(fresh.state_dict()))


@every_detector
def test_a_known_boundary_makes_it_forget(name: str) -> None:
    detector = make(name)
    for step in range(1, 151):
        detector.update(observation(step))
    detector.reset()
    steps = range(151, 251)
    assert not any(detector.update(observation(s, regime=1)) for s in steps)


@every_detector
@pytest.mark.parametrize("steps", [0, 3, 57, 155])
def test_state_goes_round_bit_by_bit(name: str, steps: int) -> None:
    one = make(name)
    shown = [observation(s, regime=int(s > 150), since=max(0, s - 151)) for s in range(1, 260)]
    for each in shown[:steps]:
        one.update(each)
    other = make(name, seed=9)
    for each in shown[100:120]:
        other.update(each)
    other.load_state_dict(copied(one.state_dict()))
    assert_same(copied(other.state_dict()), copied(one.state_dict()))
    assert [one.update(e) for e in shown[steps:]] == [other.update(e) for e in shown[steps:]]
    assert_same(copied(other.state_dict()), copied(one.state_dict()))


@every_detector
@pytest.mark.parametrize("damage", ["missing", "unknown"])
def test_a_state_with_another_key_is_refused_by_name(name: str, damage: str) -> None:
    detector = make(name)
    state = detector.state_dict()
    if damage == "missing":
        del state[next(iter(state))]
    else:
        state["surprise"] = 1
    with pytest.raises(OperatorError, match=name):
        detector.load_state_dict(state)


@every_detector
def test_batches_are_neither_changed_nor_kept(name: str) -> None:
    untouched, overwritten = make(name), make(name)
    for step in range(1, 100):
        untouched.update(observation(step))
        shown = observation(step)
        before = copied({**shown.batch.fields, "losses": shown.losses})
        overwritten.update(shown)
        assert_same({**shown.batch.fields, "losses": shown.losses}, before)
        alive = [weakref.ref(tensor) for tensor in shown.batch.fields.values()]
        for tensor in (*shown.batch.fields.values(), shown.losses):
            tensor.zero_()
        del shown, tensor
    gc.collect()
    assert all(reference() is None for reference in alive)
    assert_same(copied(overwritten.state_dict()), copied(untouched.state_dict()))


@every_detector
def test_figures_are_numbers_and_declared(name: str) -> None:
    detector = make(name)
    assert detector.name == name
    for step in range(1, 80):
        detector.update(observation(step))
        figures = detector.metrics()
        assert set(figures) == set(type(detector).figures)
        assert all(isinstance(value, float) and value == value for value in figures.values())


@every_detector
def test_its_page_and_options_are_written(name: str) -> None:
    component = catalogue("insitu.detection")[name]
    for begin in ("Costs:", "Use it when:", "Measured:"):
        assert paragraph(docstring(component), begin), begin
    for option, field in component.options.model_fields.items():
        assert field.description, option
    with pytest.raises(OperatorError, match=f"{name}.*no_such_option"):
        find("insitu.detection", name).check({"no_such_option": 1})


@pytest.mark.parametrize("name", ON_LOSS)
def test_a_falling_loss_is_learning_and_no_change(name: str) -> None:
    detector = make(name)
    noise = torch.rand(400, generator=generator(0)) * 0.2 + 0.9
    losses = 3.0 * 0.99 ** torch.arange(400) * noise
    base = observation(1)
    for step, loss in enumerate(losses, 1):
        assert not detector.update(Observation(base.batch, base.outputs, loss.expand(8), step))


def test_label_divergence_needs_labels() -> None:
    with pytest.raises(OperatorError, match=r"label_divergence.*Reconstruct"):
        make("label_divergence", objective=make_objective("reconstruct"))


def test_features_of_a_large_field_are_a_choice_of_its_elements() -> None:
    detector = make("feature_divergence", most_elements=5, directions=2, most_rows=3)
    batch = Batch.of({"x": torch.randn(9, 4, 7), "y": torch.zeros(9, dtype=torch.int64)})
    measured = detector.measure(Observation(batch, torch.zeros(9, 4), torch.ones(9), 1))
    assert measured.shape == (3, 2)
    state = detector.state_dict()
    elements, projection = state["elements"], state["projection"]
    assert len(set(elements.tolist())) == 5
    rows = batch.fields["x"].reshape(9, -1)[[0, 3, 6]][:, elements]
    assert torch.allclose(measured, rows @ projection)


# several detectors


def test_any_detector_declares_and_all_start_anew() -> None:
    watch = DriftWatch([(make("page_hinkley"), 0), (make("label_divergence"), 0)])
    found = {}
    for step in range(1, 200):
        shown = observation(step, regime=int(step > 150), since=max(0, step - 151))
        names = watch.update(shown)
        if names:
            found[step] = names
            watch.boundary()
    (step, names), *more = found.items()
    assert 151 <= step <= 170
    assert set(names) <= {"page_hinkley", "label_divergence"}
    assert more == []
    assert sum(watch.boundaries.values()) == len(names)


def test_nobody_listens_during_the_cooldown() -> None:
    def first(cooldown: int) -> int | None:
        watch = DriftWatch([(make("page_hinkley"), cooldown)])
        for step in range(1, 230):
            if watch.update(observation(step, regime=int(step > 60), since=max(0, step - 61))):
                return step
        return None

    assert first(0) in range(61, 75)
    assert first(100) is None


def test_the_watch_refuses_what_cannot_be() -> None:
    with pytest.raises(OperatorError, match="adwin, adwin"):
        DriftWatch([(make("adwin"), 0), (make("adwin"), 0)])
    with pytest.raises(OperatorError, match="cooldown_steps of 'adwin' is -1"):
        DriftWatch([(make("adwin"), -1)])
    state = DriftWatch([(make("adwin"), 0)]).state_dict()
    with pytest.raises(OperatorError, match="adwin"):
        DriftWatch([(make("plateau"), 0)]).load_state_dict(state)


# late reading


def test_values_of_the_host_are_read_at_once_and_copied() -> None:
    reading, values = LateReading(), torch.ones(3, dtype=torch.float64)
    found = reading(values)
    values.zero_()
    assert found is not None
    assert found.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_values_of_a_gpu_are_read_one_call_later_and_survive_a_checkpoint() -> None:
    reading = LateReading()
    assert reading(torch.tensor([1.0], device="cuda")) is None
    second = reading(torch.tensor([2.0], device="cuda"))
    assert second is not None
    assert second.tolist() == [1.0]
    resumed = LateReading()
    resumed.load_state_dict(copied(reading.state_dict()))
    third = resumed(torch.tensor([3.0], device="cuda"))
    assert third is not None
    assert third.tolist() == [2.0]
