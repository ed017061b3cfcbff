"""`insitu bench forgetting`: its arithmetic, its files, and a real service that finds the same."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from insitu.config import ConfigError, check_config
from insitu.errors import OperatorError
from insitu_producers.sources.catalogue import open_stream
from insitu_service.bench.forgetting import main, parser, run_all, setup_of
from insitu_service.bench.forgetting_plots import mean_matrix, save_curves, task_labels
from insitu_service.bench.forgetting_result import Moment, RunResult, Spread, summary
from insitu_service.bench.forgetting_run import run_here
from insitu_service.bench.forgetting_service import run_through_service
from insitu_service.bench.forgetting_setup import Setup, configuration
from insitu_service.bench.forgetting_variants import Variant, read_variants

SMALL = Setup(
    stream="digits/class_incremental",
    stream_options={"tasks": "2", "images_per_class": "30", "held_out_per_class": "10"},
    memory=40,
    model_options={"hidden": [32]},
    threads=1,
    device="cpu",
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(words: str, seed: int = 0, setup: Setup = SMALL) -> RunResult:
    (variant,) = read_variants(words)
    stream = open_stream(setup.stream, seed=seed, options=setup.stream_options)
    return run_here(setup, variant, stream, seed)


def made(**changes: Any) -> RunResult:
    """A run of two tasks with known results."""
    curve = (
        Moment(0, {"a": 0.1, "b": 0.2}, None, ()),
        Moment(5, {"a": 0.5, "b": 0.2}, None, ("a",)),
        Moment(10, {"a": 0.9, "b": 0.3}, "a", ("a",)),
        Moment(15, {"a": 0.2, "b": 0.5}, None, ("a", "b")),
        Moment(20, {"a": 0.6, "b": 0.8}, "b", ("a", "b")),
    )
    return replace(RunResult("v", 0, "accuracy", True, curve, 20, 4, 1.0), **changes)


def test_figures_are_those_of_the_matrix_and_count_every_measurement() -> None:
    figures = made().figures()
    assert made().matrix == [[0.9, 0.3], [0.6, 0.8]]
    expected = {
        "average": 0.7,
        "learning_average": 0.85,
        "forgetting": 0.3,
        "backward_transfer": -0.3,
        "forward_transfer": 0.1,  # 0.3 before learning b, 0.2 untrained
        "average_anytime": (0.5 + 0.9 + (0.2 + 0.5) / 2 + (0.6 + 0.8) / 2) / 4,
        "worst_case": (0.8 + 0.2) / 2,
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value), name


def test_all_at_once_is_averaged_over_what_was_measured() -> None:
    moment = Moment(20, {"a": 0.6, "b": 0.8}, "joint", ("joint",))
    figures = made(curve=(moment,)).figures()
    assert figures["average"] == pytest.approx(0.7)
    assert math.isnan(figures["forgetting"])


def test_spreads_are_over_seeds() -> None:
    spreads = summary([made(seconds=1.0), made(seed=1, seconds=3.0)])
    assert spreads["seconds"] == Spread(2.0, pytest.approx(math.sqrt(2.0)))
    assert spreads["average"].deviation == 0.0
    assert math.isnan(summary([made()])["average"].deviation)
    other = made(curve=(*made().curve[:-1], Moment(20, {"a": 1.0, "b": 0.4}, "b", ("a", "b"))))
    assert mean_matrix([made(), other])[1].tolist() == pytest.approx([0.8, 0.6])


def test_a_run_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    made().save(tmp_path / "run.json")
    assert RunResult.load(tmp_path / "run.json") == made()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_variants_come_from_words_and_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "both: [replay, {name: online_ewc, options: {strength: 3.0}}]\n"
        "tuned:\n  strategies: [replay]\n  set: {trainer.updates_per_batch: 3}\n"
    )
    variants = read_variants(f"naive,{path},replay+online_ewc,joint")
    assert [v.name for v in variants] == ["naive", "both", "tuned", "replay+online_ewc", "joint"]
    assert [v.joint for v in variants] == [False] * 4 + [True]
    assert variants[1].strategies[1]["options"] == {"strength": 3.0}
    assert variants[2].settings == {"trainer.updates_per_batch": 3}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 3", "a list of strategies"),
        ("a: {strategie: []}", "a list of strategies"),
        ("a: [{options: {}}]", "names, or mappings"),
        ("a: [repla]", "no 'repla'"),
        ("[]", "not a mapping"),
    ],
)
def test_a_wrong_file_of_variants_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(OperatorError, match=told):
        read_variants(str(tmp_path / "wrong.yaml"))


def test_wrong_words_are_told() -> None:
    for words, told in (("naive,naive", "each name once"), ("", "none"), ("no.yaml", "be read")):
        with pytest.raises(OperatorError, match=told):
            read_variants(words)


def test_one_configuration_for_all_but_the_strategies() -> None:
    stream = open_stream(SMALL.stream, seed=0, options=SMALL.stream_options)
    setup = replace(SMALL, options={"replay": {"warm_up_samples": 7}}, settings=("trainer.seed=5",))
    plain = configuration(setup, Variant("naive"), stream, 3)
    (both,) = read_variants("replay+online_ewc")
    full = configuration(setup, both, stream, 3)
    assert {**plain, "strategies": None} == {**full, "strategies": None}
    replay, ewc = full["strategies"]
    assert replay["memory"] == {"name": "reservoir", "capacity_samples": 40}
    assert replay["options"] == {"samples_per_step": 10, "warm_up_samples": 7}
    assert "memory" not in ewc
    assert plain["trainer"]["seed"] == 5
    assert check_config(full).strategies[0].memory is not None
    tuned = Variant("tuned", settings={"optimizer.options.lr": 0.5})
    assert configuration(setup, tuned, stream, 3)["optimizer"]["options"]["lr"] == 0.5
    with pytest.raises(ConfigError):
        check_config(
            configuration(replace(SMALL, settings=("trainer.epochs=2",)), tuned, stream, 0)
        )


def test_gem_divides_the_same_memory_among_the_tasks_of_the_stream() -> None:
    stream = open_stream(SMALL.stream, seed=0, options=SMALL.stream_options)
    (gem,) = configuration(SMALL, read_variants("gem")[0], stream, 0)["strategies"]
    assert gem == {"name": "gem", "options": {"capacity_samples": 40, "most_tasks": 2}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits/class_incremental", {}),
        ("digits/task_incremental", {}),
        ("digits/permuted", {"tasks": "2"}),
        ("eight_gaussians", {"steps": "2"}),
        ("drifting_gray_scott", {"tasks": "2"}),
    ],
)
def test_every_stream_has_a_configuration_that_is_sound(name: str, options: Any) -> None:
    stream = open_stream(name, seed=0, options=options)
    (variant,) = read_variants("replay")
    check_config(configuration(Setup(name, options), variant, stream, 0))


def test_replay_forgets_less_than_plain_training_and_more_than_all_at_once() -> None:
    naive, replay, joint = (run(words) for words in ("naive", "replay", "joint"))
    assert naive.tasks == ["0-4", "5-9"] == naive.ended
    assert joint.ended == ["joint"]
    assert naive.samples == replay.samples == joint.samples == 300
    assert naive.figures()["forgetting"] > replay.figures()["forgetting"] + 0.1
    averages = [each.figures()["average"] for each in (naive, replay, joint)]
    assert averages == sorted(averages)
    untrained = naive.curve[0]
    assert (untrained.samples, untrained.begun, untrained.ended) == (0, (), None)
    assert set(untrained.results) == set(naive.tasks)


def test_the_same_seed_gives_the_same_run_and_measuring_changes_nothing() -> None:
    one, again, other = run("replay"), run("replay"), run("replay", seed=1)
    assert one.curve == again.curve
    assert one.curve != other.curve
    often = run("replay", setup=replace(SMALL, evaluate_every=5))
    assert len(often.curve) > len(one.curve)
    assert often.matrix == one.matrix


def test_tasks_that_seeds_draw_are_numbered_in_pictures(tmp_path: Path) -> None:
    other = tuple(
        replace(moment, results={f"{task}!": value for task, value in moment.results.items()})
        for moment in made().curve
    )
    assert task_labels([made(), made(seed=1)]) == ["a", "b"]
    assert task_labels([made(), made(seed=1)], ended=True) == ["a", "b"]
    drawn = [made(), made(curve=other, seed=1)]
    assert task_labels(drawn) == ["task 1", "task 2"]
    save_curves({"v": drawn}, tmp_path / "curves.png")
    save_curves({"v": [made(), made(seed=1)]}, tmp_path / "same.png")
    sizes = [(tmp_path / name).stat().st_size for name in ("curves.png", "same.png")]
    assert sizes[0] > 0.8 * sizes[1]  # an empty picture is much smaller


def test_measuring_less_between_the_ends_of_tasks_leaves_their_ends_as_they_were() -> None:
    whole = run("replay", setup=replace(SMALL, evaluate_every=5))
    part = run("replay", setup=replace(SMALL, evaluate_every=5, probes_between=3))
    assert part.matrix == whole.matrix
    assert len(part.curve) == len(whole.curve)
    between = [moment for moment in part.curve if moment.ended is None and moment.begun]
    thirds = [value * 3 for moment in between for value in moment.results.values()]
    assert thirds == pytest.approx([round(third) for third in thirds], abs=1e-5)
    whole_between = [moment for moment in whole.curve if moment.ended is None and moment.begun]
    assert between != whole_between
    (variant,) = read_variants("replay")
    stream = open_stream(SMALL.stream, seed=0, options=SMALL.stream_options)
    with pytest.raises(OperatorError, match="--probes-between 3"):
        run_through_service(replace(SMALL, probes_between=3), variant, stream, 0)


@pytest.mark.parametrize("measured", ["begun", "ended"])
def test_measuring_less_finds_the_same_at_the_end_of_a_task_and_of_all(measured: Any) -> None:
    whole, part = run("replay"), run("replay", setup=replace(SMALL, measured=measured))
    assert [list(moment.results) for moment in part.curve] == [["0-4"], ["0-4", "5-9"]]
    assert part.matrix == [[whole.matrix[0][0], None], whole.matrix[1]]
    for figure in ("average", "learning_average", "backward_transfer"):
        assert part.figures()[figure] == whole.figures()[figure]
    for row, expected in zip(part.rows, whole.rows, strict=True):
        assert row.scores == expected.scores
    assert [row.scores["accuracy"] for row in part.rows] == pytest.approx(
        [whole.matrix[0][0], whole.figures()["average"]]
    )
    joint = run("joint", setup=replace(SMALL, measured="ended"))
    assert joint.curve[-1].ended == "joint"
    assert len(joint.curve[-1].results) == 2


def test_a_run_that_diverges_tells_it() -> None:
    told: list[str] = []
    setup = replace(SMALL, lr=1e30)
    (result,) = run_all(setup, read_variants("naive"), [0], run_here, tell=told.append)
    assert 0 < result.skipped_steps <= result.steps
    assert f"; {result.skipped_steps} steps skipped" in told[0]
    assert run("naive").skipped_steps == 0


def test_runs_done_before_are_taken_unless_the_setup_changed(tmp_path: Path) -> None:
    told: list[str] = []
    variants = read_variants("naive")

    def again(setup: Setup) -> list[RunResult]:
        return run_all(setup, variants, [0], run_here, runs_directory=tmp_path, tell=told.append)

    first = again(SMALL)
    assert again(SMALL) == first
    again(replace(SMALL, lr=0.01))
    assert ["done before" in line for line in told] == [False, True, False]


def test_a_real_service_finds_the_same() -> None:
    """Sockets, threads and processes between; with the fixed pace not one digit differs."""
    setup = replace(SMALL, updates=2, evaluate_every=10)
    (variant,) = read_variants("replay")
    stream = open_stream(setup.stream, seed=2, options=setup.stream_options)
    here = run_here(setup, variant, stream, 2)
    there = run_through_service(setup, variant, stream, 2)
    assert (there.tasks, there.ended) == (here.tasks, here.ended)
    for row, expected in zip(there.matrix, here.matrix, strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    assert there.figures() == pytest.approx(here.figures(), abs=1e-6, nan_ok=True)
    assert not math.isnan(there.figures()["forward_transfer"])
    assert (there.samples, there.steps) == (here.samples, here.steps)
    assert there.curve[-1].samples == here.curve[-1].samples


def test_the_command_writes_a_table_and_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--stream digits/class_incremental --strategies naive,replay --seeds 2 --threads 1"
    words += (
        " --stream-option tasks=2 --stream-option images_per_class=20 --model-option hidden=[8]"
    )
    assert main([*words.split(), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for word in (
        "naive, seed 1: accuracy",
        "forgetting",
        "BWT",
        "±",
        "replay",
        "mean over the tasks begun",
    ):
        assert word in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["runs"]) == 4
    mean, deviation = results["summary"]["replay"]["average"]
    averages = [r["figures"]["average"] for r in results["runs"] if r["variant"] == "replay"]
    assert mean == pytest.approx(sum(averages) / 2)
    assert deviation == pytest.approx(abs(averages[0] - averages[1]) / math.sqrt(2))
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategies"], row["seed"]) for row in rows] == [
        ("naive", "0"), ("naive", "1"), ("replay", "0"), ("replay", "1"),
    ]  # fmt: skip
    assert float(rows[2]["average"]) == averages[0]
    for picture in ("curves", "matrices", "bars"):
        assert (tmp_path / "out" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_command_line_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--stream", "digits/none"], "no 'none'"),
        (["--strategies", "forget"], "no 'forget'"),
        (["--seeds", "0"], "1 or more"),
        (["--first-seed", "-1"], "0 or more"),
        (["--probes-between", "0"], "1 or more"),
        (["--option", "samples=3"], "STRATEGY.NAME=VALUE"),
        (["--memory", "0", "--strategies", "replay", "--seeds", "1"], "capacity_samples"),
    ):
        assert main([*words, "--output", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "eight_gaussians" in capsys.readouterr().out


def test_the_command_line_is_the_setup() -> None:
    words = "--batch 5 --memory 7 --lr 0.2 --option replay.warm_up_samples=3 --data there"
    setup = setup_of(parser().parse_args(words.split()))
    assert (setup.batch, setup.memory, setup.lr) == (5, 7, 0.2)
    assert setup.options == {"replay": {"warm_up_samples": 3}}
    assert setup.stream_options == {"data": "there"}


def test_what_the_command_line_leaves_open_suits_the_stream() -> None:
    setup = setup_of(parser().parse_args([]))
    assert (setup.memory, setup.memory_policy, setup.batch) == (100, "class_balanced", 10)
    assert (setup.updates, setup.replayed, setup.model_options) == (5, 50, {"layer_norm": True})
    words = "--batch 4 --updates 1 --model mlp --model-option hidden=[8]"
    given = setup_of(parser().parse_args(words.split()))
    assert (given.replayed, given.updates, given.model_options) == (20, 1, {"hidden": [8]})
    words = "--stream eight_gaussians --batch 4"
    density = setup_of(parser().parse_args(words.split()))
    assert (density.memory, density.replayed, density.model) == (4096, 12, "")
    other = setup_of(parser().parse_args(["--stream", "drifting_gray_scott"]))
    assert (other.updates, other.replayed, other.memory_policy) == (1, 10, "reservoir")


@pytest.mark.parametrize(
    ("scenario", "words", "least"),
    [
        ("class_incremental", "replay", 0.88),
        ("class_incremental", "gem", 0.85),
        ("domain_incremental", "replay", 0.91),
    ],
)
def test_the_defaults_keep_what_was_learned(scenario: str, words: str, least: float) -> None:
    """On a seed that the figures in forgetting.md are not told of."""
    arguments = ["--stream", f"digits/{scenario}", "--threads", "1", "--device", "cpu"]
    found = run(words, seed=10, setup=setup_of(parser().parse_args(arguments)))
    assert found.figures()["average"] > least
