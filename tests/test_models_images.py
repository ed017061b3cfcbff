"""Models of images that are not trained by gradient alone: patches, and a residual network."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.models.build import build_model
from insitu.models.patch_dictionary import atoms, random_patches, standardised, whitening
from insitu.models.random_patches import RandomPatches
from insitu.models.resnet import ResNet
from insitu.objectives.ridge import Ridge
from insitu.schema import Schema
from insitu.trainer import Trainer
from learning import assert_same, copied, generator

SHAPE = (2, 7, 8)
OPTIONS: dict[str, Any] = {"filters": 5, "patch": 3, "patches": 80, "patches_per_image": 10}


def images(rows: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, *SHAPE, generator=generator(seed))


def make(seed: int = 0, **options: Any) -> RandomPatches:
    both = {**OPTIONS, **options}
    parts = both.get("pool", 2) ** 2
    size = both["filters"] * parts * (1 if both.get("activation") == "triangle" else 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RandomPatches(SHAPE, (size,), **both)


def plain_features(
    model: RandomPatches, fields: Tensor, found: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Patch by patch, from whitened atoms, as the papers write it."""
    patches = standardised(model.collected_patches.double(), model.contrast)
    mean, whiten = (t.numpy() for t in whitening(patches, model.whitening))
    size, (height, width) = model.patch, SHAPE[1:]
    rows = []
    for image in fields.double().numpy():
        tops = range(0, height - size + 1, model.stride)
        lefts = range(0, width - size + 1, model.stride)
        maps = np.zeros((len(found), len(tops), len(lefts)))
        for (i, top), (j, left) in product(enumerate(tops), enumerate(lefts)):
            patch = image[:, top : top + size, left : left + size].ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + model.contrast)
            maps[:, i, j] = found @ (whiten @ (patch - mean))
        if model.activation == "triangle":
            active = np.maximum(maps - maps.mean(axis=0), 0)
        else:
            both = (maps - model.threshold, -maps - model.threshold)
            active = np.concatenate([np.maximum(part, 0) for part in both])
        pooled = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(active), model.pool)
        rows.append(pooled.numpy().ravel())
    return np.stack(rows)


@pytest.mark.parametrize("activation", ["threshold", "triangle"])
@pytest.mark.parametrize(("stride", "pool"), [(1, 2), (2, 1)])
def test_features_against_patch_by_patch(activation: str, stride: int, pool: int) -> None:
    model = make(activation=activation, stride=stride, pool=pool, iterations=0)
    model.fit(images(9))
    patches = standardised(model.collected_patches.double(), model.contrast)
    mean, whiten = whitening(patches, model.whitening)
    # with no iterations the atoms are the drawn patches; take them back out of the kernels
    kernels = model.dictionary.flatten(1).double()
    centre = torch.eye(kernels.shape[1], dtype=torch.float64) - 1.0 / kernels.shape[1]
    whitened = torch.nn.functional.normalize((patches - mean) @ whiten, dim=1)
    candidates = whitened @ whiten @ centre
    nearest = torch.cdist(kernels, candidates).argmin(dim=1)
    assert float(torch.cdist(kernels, candidates).amin(dim=1).max()) < 1e-3
    wanted = plain_features(model, images(3, 5), whitened[nearest].numpy())
    np.testing.assert_allclose(model(images(3, 5)), wanted, rtol=1e-3, atol=1e-4)


def test_whitened_patches_have_unit_covariance() -> None:
    random = generator(0)
    patches = torch.randn(400, 6, generator=random) @ torch.randn(6, 6, generator=random) + 3
    mean, whiten = whitening(patches, 1e-8)
    np.testing.assert_allclose(
        np.cov(((patches - mean) @ whiten).T, bias=True), np.eye(6), atol=1e-3
    )
    torch.testing.assert_close(whiten, whiten.T)


def test_patches_come_from_everywhere_evenly() -> None:
    numbered = torch.arange(2 * 4 * 5.0).view(2, 1, 4, 5)
    patches = random_patches(numbered, 3, 6000, generator(1))
    corners, counts = torch.unique(patches[:, 0], return_counts=True)
    allowed = numbered[:, 0, :2, :3].flatten()
    assert torch.equal(corners, allowed)
    for patch in patches[:20]:
        assert torch.equal(patch - patch[0], torch.tensor([0, 1, 2, 5, 6, 7, 10, 11, 12.0]))
    chi_square = float(((counts - 500) ** 2 / 500).sum())
    assert chi_square < 31.3  # 11 degrees of freedom, 0.1 %


def test_atoms_find_the_directions_that_patches_lie_in() -> None:
    random = generator(2)
    directions = torch.linalg.qr(torch.randn(8, 3, generator=random))[0].T
    chosen = torch.randint(3, (300,), generator=random)
    sizes = torch.randn(300, 1, generator=random)
    patches = directions[chosen] * sizes + 0.2 * torch.randn(300, 8, generator=random)
    drawn, found = (atoms(patches, 3, rounds, generator(3)) for rounds in (0, 10))
    np.testing.assert_allclose(found.norm(dim=1), 1, rtol=1e-5)
    best_of_drawn = (drawn @ directions.T).abs().amax(dim=0)
    best_of_found = (found @ directions.T).abs().amax(dim=0)
    assert float(best_of_found.min()) > 0.98
    assert float(best_of_drawn.min()) < 0.9


def test_the_dictionary_is_made_from_the_first_rows_and_stays() -> None:
    model = make()
    assert not model(images(4)).any()
    assert not model.is_fitted
    model.eval()
    assert not model(images(9)).any(), "evaluation collects nothing"
    model.train()
    assert bool(model(images(6, 1)).any())
    assert model.is_fitted
    before = copied(dict(model.state_dict()))
    model(images(9, 2))
    assert_same(copied(dict(model.state_dict())), before)


def test_a_model_saved_while_it_collects_goes_on_alike() -> None:
    model, other = make(), make(seed=5)
    model(images(4))
    other.load_state_dict(copied(dict(model.state_dict())))
    assert not other.is_fitted
    assert torch.equal(model(images(6, 1)), other(images(6, 1)))
    assert other.is_fitted
    assert_same(copied(dict(other.state_dict())), copied(dict(model.state_dict())))


def test_features_of_an_image_do_not_depend_on_how_many_come_with_it() -> None:
    model = make()
    model.fit(images(9))
    many = model(images(21, 3))
    torch.testing.assert_close(many[17:], model(images(21, 3)[17:]))


def test_features_are_handed_out_or_taken_to_the_outputs() -> None:
    assert not list(make().parameters())
    model = build_model("random_patches", OPTIONS, SHAPE, (4,), seed=0)
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]
    with pytest.raises(OperatorError, match=r"no 2 x 2 parts of patches of 7 pixels"):
        RandomPatches((7, 7), (4,), patch=7)


def test_patches_and_ridge_learn_class_by_class() -> None:
    """Stripes of four directions, one class after another, no sample kept."""
    schema = Schema.of({"x": ("float32", (1, 12, 12)), "y": ("int64", ())})
    options = {"filters": 16, "patch": 4, "patches": 400, "patches_per_image": 20}
    objective = Ridge(schema, classes=4, features=2 * 16 * 4)
    network = build_model(
        "random_patches", options, (1, 12, 12), (128,), seed=0, network=objective.network
    )
    head = [p for p in network.parameters() if p.requires_grad]
    trainer = Trainer(network, objective, torch.optim.SGD(head, lr=0.1))
    tests = [stripes(label, 20, seed=9) for label in range(4)]
    for label in range(4):
        for seed in range(8):
            trainer.step(stripes(label, 10, seed))
    scores = [trainer.evaluate(batch).scores["accuracy"] for batch in tests]
    assert min(scores) > 0.8


def stripes(label: int, rows: int, seed: int) -> Batch:
    random = generator(100 * label + seed)
    angle = torch.tensor(label * torch.pi / 4)
    down, right = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    phase = 6.3 * torch.rand(rows, 1, 1, 1, generator=random)
    along = (angle.cos() * right + angle.sin() * down).view(1, 1, 12, 12)
    noise = 0.3 * torch.randn(rows, 1, 12, 12, generator=random)
    x = torch.sin(1.3 * along + phase) + noise
    return Batch.of({"x": x, "y": torch.full((rows,), label)}, task=label)


def test_the_reduced_resnet_has_the_published_size() -> None:
    """Lopez-Paz and Ranzato's, with 20 channels and 10 classes: 1.1 million weights."""
    weights = sum(p.numel() for p in ResNet((3, 32, 32), (10,), norm="batch").parameters())
    assert 1_090_000 < weights < 1_100_000
    groups = sum(p.numel() for p in ResNet((3, 32, 32), (10,)).parameters())
    assert groups == weights


def test_batch_norm_is_there_for_those_who_want_it() -> None:
    model = ResNet((3, 8, 8), (4,), width=4, norm="batch")
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    fields = torch.randn(6, 3, 8, 8, generator=generator(0))
    together = model(fields)
    assert not torch.allclose(together[:2], model(fields[:2]), atol=1e-4)
    model.eval()
    torch.testing.assert_close(model(fields)[:2], model(fields[:2]))
