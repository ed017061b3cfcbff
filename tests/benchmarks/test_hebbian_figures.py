"""The cost of a Hebbian step against the arithmetic that it cannot do without.

The floor is one forward pass and one weight gradient of the layer's own shapes: with zeros beyond
the border a padded convolution, with reflection a convolution over the padded input, which takes
2 to 5 % more, since products with zeros can be left out. A step is the layer's forward pass,
padding included, in training mode, and its update. The better of layouts, and of eager and
compiled, is what an operator would choose, and what is held. Run by `pytest -m benchmark` on a
quiet machine: a step has many small operators where the floor has two large ones, and touches
more memory, so other work on the machine costs it more. `INSITU_BENCH_THREADS` (2) sets the
threads; with `INSITU_BENCH_CLOCK=cpu` the processor time of all threads is measured, which other
work disturbs less than elapsed time.

Measured on a 2-core AMD EPYC of family 26 with torch 2.13 while a dozen other processes wanted its
cores, this one before them: elapsed time, median of the ratios of 11 to 25 rounds in turn, over
several runs, channels last (channels first is slower throughout), reflected padding

                               one thread            two threads
                               eager      compiled   eager      compiled
    96 -> 384, k3, 32 x 32     1.08-1.09  1.07       1.09-1.20  1.09       target 1.10
    96 -> 384, k3, 16 x 16     1.10-1.17  1.09-1.10  1.09-1.23  1.05-1.11  target 1.10
    3 -> 96, k5, 32 x 32       1.40-1.43  1.29-1.33  1.8-2.1    1.47-1.54  target 1.5
    linear 784 -> 2000         1.25-1.45             1.23-1.47             target 1.5

With zeros beyond the border, compiled and two threads: 1.14 at 16 x 16, 1.51 to 1.55 at 3 -> 96,
both missed. With two threads the two convolutions of 3 -> 96 take half of the time, and less, as
what they work on fits two caches; the passes of the competition take 0.6, and small operators as
long as before.

A linear step multiplies by oneDNN where the floor multiplies by what `torch.nn.functional.linear`
takes, MKL. Against a floor whose forward pass is oneDNN's, too, it stands at 1.9 with one thread
and at 2.0 with two.

Where the time goes, at 16 x 16 and one thread 17 ms: the competition 0.8 to 1.2 ms (a fifth of it
to find the first of the largest, a quarter for the powers), passes over weights 0.2 ms, padding
0.1 ms, some 60 small operators 0.2 ms and more when their code has left the cache. At 3 -> 96 the
competition alone is 35 % of the floor; it runs at 0.9 ns a value, 0.1 ns for each of nine passes
in the cache. In a linear layer six passes over weights stand against the two of the floor.

What helped: powers of two in place of exp (4 times), no powers that underflow (3 to 10 times),
maxima in place of argmax and softmax along a strided axis (several times), with channels last one
table with a column a kernel, and fewer small operators (together 4 to 6 % of a step), no pass over
large weights for the division and for the guard against NaN, pieces that grow with the threads
(2.25 to 1.98 at 3 -> 96 with two). For a linear layer oneDNN in place of MKL, which on this
processor takes twice as long for any product of 4 million multiplications or more (with two threads
2.4 to 1.3: weights that the other core has written cost MKL more than they cost it), and the decay
before the product, which is added to it (0.29 against 0.34 ms with two threads, 0.54 against 0.71
with one). Compiled, `nan_to_num` and comparisons of integers are not vectorised; without them a
linear step takes 2.9 in place of 4.4 ms. Compiled, exp in place of powers of two: the compiler
keeps it, and computes powers of two twice (1 to 2 %).

What did not: images one by one, from the convolution to the gradient, so that activations stay in
the cache (5 % slower at 32 x 32, twice the time at 3 -> 96), or five at a time (2 % faster to 14 %
slower); pieces of 2^16 to 2^21 values (2^19 is the best); softmax over the last axis, whose exp
takes what the single passes take; the competition alone compiled by inductor (0.84 to 1.0 of the
eager time), also with a polynomial for the powers (0.87); the winner's sign by `copysign` of the
gap in place of its number (1.45 against 1.37 at 3 -> 96), which takes every one of several equal
kernels besides; reflection by index or by slices (as long, or longer); the gradient of a linear
layer by oneDNN, which copies it once more; equality, argmax or nonzero for the winner, none of
which is vectorised (4 to 7 times the two passes that it takes now); weights in blocks of rows that
fit a core's cache (within the noise); a batched product for <w, G> (4 times).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from insitu.layers.convolution import HebbianConv2d
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.learning_rates import AdaptiveRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.padding import PaddingMode, pad
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.update import HebbianUpdate
from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.supervision.heap import keep_freed_memory

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

_ROWS = 10
_ROUNDS = 21
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

#: name -> channels, kernels, size of the kernel, side of the image, target of the ratio
CONVOLUTIONS = {
    "96 -> 384, k3, 32 x 32": (96, 384, 3, 32, 1.10),
    "96 -> 384, k3, 16 x 16": (96, 384, 3, 16, 1.10),
    "3 -> 96, k5, 32 x 32": (3, 96, 5, 32, 1.5),
}


@pytest.fixture(autouse=True)
def quiet_process() -> Iterator[None]:
    """Threads and heap as in the service; the threads as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("INSITU_BENCH_THREADS", "2")))
    keep_freed_memory()
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


def milliseconds(work: Callable[[], object], times: int) -> Callable[[], float]:
    clock = _CLOCKS[os.environ.get("INSITU_BENCH_CLOCK", "wall")]

    def measure() -> float:
        began = clock()
        for _ in range(times):
            work()
        return (clock() - began) / times * 1e3

    return measure


def of_a_step(
    name: str,
    layer: HebbianLayer,
    rows: Tensor,
    floor: Callable[[], object],
    target: float,
    compiled: bool,
) -> Comparison:
    update = HebbianUpdate(layer)

    def learn(rows: Tensor) -> Tensor:
        features: Tensor = layer(rows)
        update.step()
        return features

    learns = torch.compile(learn, fullgraph=True, dynamic=False) if compiled else learn

    def step() -> None:
        learns(rows)

    for _ in range(3):
        step(), floor()
    once = milliseconds(floor, 1)()
    times = max(1, round(20.0 / once))
    ours, floors = in_turn(_ROUNDS, milliseconds(step, times), milliseconds(floor, times))
    return compare(name, "ms", ours, floors, target=target, at_least=False)


def of_a_convolution(
    name: str, padding_mode: PaddingMode, layout: torch.memory_format, compiled: bool
) -> Comparison:
    channels, kernels, size, side, target = CONVOLUTIONS[name]
    generator = torch.Generator().manual_seed(0)
    rule, rates = SoftHebb(inverse_temperature=0.65), AdaptiveRates(0.005)
    margin = size // 2
    layer = HebbianConv2d(
        channels,
        kernels,
        size,
        rule,
        rates,
        padding=margin,
        padding_mode=padding_mode,
        generator=generator,
    ).to(memory_format=layout)  # type: ignore[call-overload]
    rows = torch.randn(_ROWS, channels, side, side, generator=generator)
    rows = rows.contiguous(memory_format=layout)
    gradient = torch.randn(_ROWS, kernels, side, side, generator=generator)
    gradient = gradient.contiguous(memory_format=layout)
    weight, seen, pads = layer.weight, rows, [margin, margin]
    if padding_mode != "zeros":
        seen, pads = pad(rows, pads, padding_mode).contiguous(memory_format=layout), [0, 0]

    def floor() -> None:
        torch.conv2d(seen, weight, padding=pads)
        torch.ops.aten.convolution_backward(
            gradient, seen, weight, None, [1, 1], pads, [1, 1], False, [0, 0], 1,
            [False, True, False],
        )  # fmt: skip

    kind = "channels last" if layout == torch.channels_last else "channels first"
    kind += ", compiled" if compiled else ""
    return of_a_step(f"{name}, {padding_mode}, {kind}", layer, rows, floor, target, compiled)


def of_linear(compiled: bool) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    rule, rates = SoftHebb(inverse_temperature=0.65), AdaptiveRates(0.005)
    layer = HebbianLinear(784, 2000, rule, rates, generator=generator)
    rows = torch.rand(_ROWS, 784, generator=generator)
    gradient = torch.randn(_ROWS, 2000, generator=generator)

    def floor() -> None:
        torch.nn.functional.linear(rows, layer.weight)
        torch.mm(gradient.t(), rows)

    name = "linear 784 -> 2000" + (", compiled" if compiled else "")
    return of_a_step(name, layer, rows, floor, 1.5, compiled)


def held(*ways: Comparison) -> None:
    """The best of the ways is what an operator would choose, and what is held."""
    print()
    print_table(f"Hebbian step, {torch.get_num_threads()} threads, batch {_ROWS}", ways)
    best = min(ways, key=lambda c: c.ratio)
    assert best.reached, f"{best.name}: {best.ratio:.3f} against {best.target:g}"


@pytest.mark.parametrize("padding_mode", ["reflect", "zeros"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_step_of_a_convolution(name: str, padding_mode: PaddingMode) -> None:
    ways = [(torch.contiguous_format, False), (torch.channels_last, False)]
    if shutil.which("g++"):
        ways.append((torch.channels_last, True))
    held(*(of_a_convolution(name, padding_mode, *way) for way in ways))


def test_step_of_a_linear_layer() -> None:
    held(*(of_linear(compiled) for compiled in (False, True)[: 1 + bool(shutil.which("g++"))]))
