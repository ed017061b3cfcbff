"""CIFAR-10: the published three-layer Hebbian network, one epoch, and a linear head behind it.

The network of `network: cifar10` sees the images once, without labels, in batches of 10; then it is
frozen, and a linear head is fitted to its features by ridge regression, whose strength is chosen on
a tenth of the newest of the head's images; several numbers of them give several figures. Prints
accuracy on the test images, and the time of each part.

    python tests/benchmarks/hebbian_cifar10.py --data cifar10-jpeg.tar.xz --cache cache --width 0.5

Published for the full width: 80.3 %, with a head trained by 50 epochs with dropout (Journé et al.,
"Hebbian deep learning without feedback", ICLR 2023).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from insitu.layers.update import HebbianUpdate
from insitu.models.build import build_model
from insitu_producers.images.cifar10_jpeg import load
from insitu_service.supervision.heap import keep_freed_memory

_SHAPE, _CLASSES, _BATCH = (3, 32, 32), 10, 10
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def batches(images: np.ndarray, order: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(order), _BATCH):
        yield torch.from_numpy(images[order[start : start + _BATCH]]).float() / 255


@torch.no_grad()
def learn(model: nn.Module, images: np.ndarray, order: np.ndarray) -> None:
    update = HebbianUpdate(model)
    model.train()
    for batch in batches(images, order):
        model(batch)
        update.step()


@torch.no_grad()
def features_of(model: nn.Module, images: np.ndarray, order: np.ndarray) -> Tensor:
    model.eval()
    return torch.cat([model(batch) for batch in batches(images, order)])


class Ridge:
    """Sums over rows from which ridge regression to one-hot labels follows."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        targets = nn.functional.one_hot(y, _CLASSES).float()
        self.rows, self.x, self.y = len(x), x.sum(dim=0), targets.sum(dim=0)
        self.xx, self.xy = x.T @ x, x.T @ targets

    def plus(self, rows: Ridge, sign: int = 1) -> Ridge:
        """With these rows, too, or without them for a sign of -1."""
        both = object.__new__(Ridge)
        both.rows = self.rows + sign * rows.rows
        both.x, both.y = self.x + sign * rows.x, self.y + sign * rows.y
        both.xx, both.xy = torch.add(self.xx, rows.xx, alpha=sign), self.xy + sign * rows.xy
        return both

    def predict(self, asked: Tensor, strength: float) -> Tensor:
        """(rows, classes); the strength is in mean variances of a feature, per row."""
        mean, offset = self.x / self.rows, self.y / self.rows
        system = torch.addr(self.xx, self.x, mean, alpha=-1.0)
        system.diagonal().add_(strength * system.diagonal().mean())
        weights = torch.cholesky_solve(
            self.xy - self.x.outer(offset), torch.linalg.cholesky(system)
        )
        return (asked - mean) @ weights + offset


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=50_000, help="of the Hebbian epoch")
    parser.add_argument("--head-images", type=int, nargs="+", default=[50_000], help="of the head")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="random kernels, too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    images = load(given.data, given.cache)
    order = np.random.default_rng(given.seed).permutation(len(images.y))
    asked = np.random.default_rng(given.seed).permutation(len(images.held_out_y))
    asked = asked[: given.test_images]
    options = {"network": "cifar10", "width": given.width, "head": "scale"}
    features = 16 * round(1536 * given.width)
    model = build_model("hebbian", options, _SHAPE, (features,), seed=given.seed)

    began, cpu = time.perf_counter(), time.process_time()

    def tell(what: str) -> None:
        nonlocal began, cpu
        elapsed, used = time.perf_counter() - began, time.process_time() - cpu
        print(f"{what}: {elapsed:.0f} s, {used:.0f} s of processor time", flush=True)
        began, cpu = time.perf_counter(), time.process_time()

    for name in ("random", "learned") if given.random else ("learned",):
        if name == "learned":
            learn(model, images.x, order[: given.images])
            tell(f"one epoch of {given.images} images at width {given.width}")
        test_x = features_of(model, images.held_out_x, asked)
        test_y = torch.from_numpy(images.held_out_y[asked])
        tell(f"features of {len(test_x)} test images")
        fit, start = None, 0
        for stop in given.head_images:
            x = features_of(model, images.x, order[start:stop])
            y = torch.from_numpy(images.y[order[start:stop]])
            tell(f"features of {len(x)} images")
            newest = Ridge(x, y)
            fit = newest if fit is None else fit.plus(newest)
            start, cut = stop, len(x) // 10  # the last rows' tenth, as if they had not come
            rest = fit.plus(Ridge(x[:cut], y[:cut]), sign=-1)
            on_cut = {s: accuracy(rest.predict(x[:cut], s), y[:cut]) for s in _STRENGTHS}
            best = max(on_cut, key=on_cut.__getitem__)
            found = accuracy(fit.predict(test_x, best), test_y)
            tell(f"{name} kernels, ridge of {stop} images, strength {best}: accuracy {found:.4f}")


if __name__ == "__main__":
    main()
