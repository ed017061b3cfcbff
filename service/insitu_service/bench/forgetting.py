"""Forgetting: continual-learning methods on one stream, as a table, JSON, CSV and pictures.

Every method sees the same stream once, with the same network, memory and batches; see
`insitu/docs/forgetting.md`. `--strategies` takes names, `A+B` for both together, `naive` for none,
`joint` for all data shuffled, and YAML files with whole configurations of strategies.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from insitu.config.document import parse
from insitu.errors import InsituError, OperatorError
from insitu.evaluation.matrix import FIGURES
from insitu_producers.sources.catalogue import open_stream, stream_names
from insitu_producers.sources.feed import need_extra
from insitu_producers.sources.options import read_words
from insitu_producers.sources.task_stream import TaskStream
from insitu_service.bench.forgetting_recommended import recommended
from insitu_service.bench.forgetting_result import RunResult, by_variant, summary
from insitu_service.bench.forgetting_run import run_here
from insitu_service.bench.forgetting_setup import Measured, Setup
from insitu_service.bench.forgetting_table import score_table, table
from insitu_service.bench.forgetting_variants import Variant, read_variants
from insitu_service.supervision.heap import keep_freed_memory

Runner = Callable[[Setup, Variant, TaskStream, int], RunResult]


def run_all(
    setup: Setup,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    runner: Runner,
    *,
    runs_directory: Path | None = None,
    tell: Callable[[str], None] = print,
) -> list[RunResult]:
    """Every variant on every seed.

    Args:
        runs_directory: where each run is kept when it is done, and taken from when it was done
            before with the same setup; None: nowhere.
        tell: called with a line about each run.
    """
    results = []
    for seed in seeds:
        stream = open_stream(setup.stream, seed=seed, options=setup.stream_options)
        for variant in variants:
            path = None
            if runs_directory is not None:
                path = runs_directory / f"{_fingerprint(setup, variant, runner)}-{seed}.json"
            if path is not None and path.is_file():
                run, how = RunResult.load(path), "done before"
            else:
                run = runner(setup, variant, stream, seed)
                how = f"{run.seconds:.1f} s, {run.steps} steps"
                if path is not None:
                    run.save(path)
            results.append(run)
            if run.skipped_steps:
                how += f"; {run.skipped_steps} steps skipped, not finite"
            average = run.figures()["average"]
            tell(f"{variant.name}, seed {seed}: {run.metric} {average:.4g} ({how})")
    order = [variant.name for variant in variants]
    return sorted(results, key=lambda run: (order.index(run.variant), run.seed))


def _fingerprint(setup: Setup, variant: Variant, runner: Runner) -> str:
    """A name for a run that changes with whatever its outcome depends on."""
    common = asdict(setup)
    if setup.probes_between is None:
        del common["probes_between"]  # runs kept before it existed have the same name
    if setup.measured == "all":
        del common["measured"]
    told = json.dumps([common, asdict(variant), runner.__name__], sort_keys=True, default=str)
    name = "".join(c if c.isalnum() or c in "+_-" else "_" for c in variant.name)
    return f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def save(runs: Sequence[RunResult], setup: Setup, directory: Path) -> None:
    """results.json, results.csv, and three pictures."""
    plain = {
        "setup": asdict(setup),
        "figures": {name: meaning for name, (_, meaning) in FIGURES.items()},
        "summary": {
            name: {key: [_plain(s.mean), _plain(s.deviation)] for key, s in summary(group).items()}
            for name, group in by_variant(runs).items()
        },
        "runs": [{**asdict(run), "figures": _numbers(run.figures())} for run in runs],
    }
    (directory / "results.json").write_text(json.dumps(plain, indent=1, default=str) + "\n")
    with (directory / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["strategies", "seed", "metric", *FIGURES, "samples", "steps", "seconds"])
        for run in runs:
            figures = _numbers(run.figures())
            row = [
                run.variant,
                run.seed,
                run.metric,
                *figures.values(),
                run.samples,
                run.steps,
                run.seconds,
            ]
            writer.writerow(row)
    try:
        from insitu_service.bench import forgetting_plots as plots
    except ImportError as error:
        print(need_extra("pictures", "demo", error), file=sys.stderr)
        return
    groups = by_variant(runs)
    plots.save_curves(groups, directory / "curves.png")
    plots.save_matrices(groups, directory / "matrices.png")
    plots.save_bars(groups, directory / "bars.png")


def _numbers(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in figures.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="insitu bench forgetting",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--stream", default="digits/class_incremental", help="SET/SCENARIO or a source; see --list")
    add("--stream-option", action="append", default=[], metavar="NAME=VALUE", help="of the stream")
    add("--data", default="", help="where the files of an image set lie")
    add("--cache", default="", help="directory that decoded images are kept in")
    add("--strategies", default="naive,replay,joint", help="A,B+C,FILE.yaml")
    add("--seeds", type=int, default=5, help="runs of each, seeds 0, 1, ...")
    add("--first-seed", type=int, default=0, help="to choose settings on other seeds than to tell")
    suits = made.add_argument_group(
        "left out: what suits the stream, see forgetting.md"
    ).add_argument
    suits("--memory", type=int, help="samples that a strategy may remember")
    suits("--memory-policy", help="which ones")
    suits("--batch", type=int, help="fresh samples of a step")
    suits("--replayed", type=int, help="remembered samples of a step")
    suits("--updates", type=int, help="updates on every batch")
    suits("--optimizer", help="a class of torch.optim")
    suits("--lr", type=float, help="learning rate")
    suits("--model", help="a model by name")
    add("--model-option", action="append", default=[], metavar="NAME=VALUE", help="of the model")
    add("--option", action="append", default=[], metavar="STRATEGY.NAME=VALUE", help="of one")
    add("--set", action="append", default=[], metavar="SETTING=VALUE", help="as of insitu serve")
    add("--evaluate-every", type=int, default=None, help="steps between measurements in a task")
    add("--probes-between", type=int, default=None, help="held-out samples of a task for these")
    add("--measured", choices=get_args(Measured), default="all", help="tasks, where one ends")
    add("--threads", type=int, default=None, help="of torch; 1 for figures to compare")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--through-service", action="store_true", help="real services and producers")
    add("--output", type=Path, default=Path("forgetting"), help="directory for all that is found")
    add("--resume", action="store_true", help="keep runs in the output, and take those done before")
    add("--list", action="store_true", help="name the streams and end")
    return made


def setup_of(arguments: argparse.Namespace) -> Setup:
    """The setup that a command line tells.

    Raises:
        OperatorError: an option is no NAME=VALUE, or probes are to be fewer than 1.
    """
    stream_options = read_words(arguments.stream_option)
    for name in ("data", "cache"):
        if getattr(arguments, name):
            stream_options[name] = getattr(arguments, name)
    options: dict[str, dict[str, Any]] = {}
    for name, value in read_words(arguments.option).items():
        strategy, dot, option = name.partition(".")
        if not dot:
            raise OperatorError(f"--option {name}", allowed="STRATEGY.NAME=VALUE")
        options.setdefault(strategy, {})[option] = parse(value, "--option").data
    between = arguments.probes_between
    if between is not None and between < 1:
        raise OperatorError(f"--probes-between is {between}", allowed="1 or more")
    rest = ("evaluate_every", "probes_between", "measured", "threads", "device")
    return Setup(
        stream=arguments.stream,
        stream_options=stream_options,
        **_filled(arguments),
        options=options,
        settings=tuple(arguments.set),
        **{name: getattr(arguments, name) for name in rest},
    )


def _filled(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, and what suits the stream where it says nothing."""
    suits = recommended(arguments.stream)
    names = ("memory", "memory_policy", "batch", "updates", "optimizer", "lr", "model")
    given = {name: getattr(arguments, name) for name in (*names, "replayed")}
    filled = {name: getattr(suits, name) for name in names}
    filled.update({name: value for name, value in given.items() if value is not None})
    filled.setdefault("replayed", suits.replayed_per_fresh * filled["batch"])
    model_options = {} if given["model"] else dict(suits.model_options)
    model_options |= _as_yaml(read_words(arguments.model_option))
    return {**filled, "model_options": model_options}


def _as_yaml(words: Mapping[str, str]) -> dict[str, Any]:
    return {name: parse(word, "--model-option").data for name, word in words.items()}


def main(argv: list[str]) -> int:
    """Run, print the table, write the files; 2 when something in the command line is wrong."""
    arguments = parser().parse_args(argv)
    if arguments.list:
        print("\n".join(stream_names()))
        return 0
    console, began = Console(), time.monotonic()
    keep_freed_memory()
    runner: Runner = run_here
    if arguments.through_service:
        from insitu_service.bench.forgetting_service import run_through_service as runner
    try:
        setup = setup_of(arguments)
        variants = read_variants(arguments.strategies)
        for name, least in (("seeds", 1), ("first_seed", 0)):
            if getattr(arguments, name) < least:
                flag, value = name.replace("_", "-"), getattr(arguments, name)
                raise OperatorError(f"--{flag} is {value}", allowed=f"{least} or more")
        runs_directory = arguments.output / "runs" if arguments.resume else None
        (runs_directory or arguments.output).mkdir(parents=True, exist_ok=True)

        def tell(line: str) -> None:
            console.print(line, highlight=False, soft_wrap=True)

        runs = run_all(
            setup,
            variants,
            range(arguments.first_seed, arguments.first_seed + arguments.seeds),
            runner,
            runs_directory=runs_directory,
            tell=tell,
        )
        save(runs, setup, arguments.output)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("insitu"):
            raise
        print(need_extra("this stream", "demo", error), file=sys.stderr)
        return 2
    except InsituError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    # whole, also where standard output is a file or a narrow terminal
    wide = Console(width=max(console.width, 180), soft_wrap=True)
    wide.print(table(runs, f"{setup.stream}, {arguments.seeds} seeds"))
    wide.print(score_table(runs, every_end=setup.measured == "begun"))
    tell(f"{time.monotonic() - began:.0f} s; all figures and pictures: {arguments.output}")
    return 0
