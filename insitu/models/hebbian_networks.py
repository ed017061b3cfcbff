"""Published Hebbian networks by name.

From the presets of the authors' code for Journé, Garcia Rodriguez, Guo and Moraitis, "Hebbian deep
learning without feedback" (ICLR 2023):

- `mnist`: `2SoftMlpMNIST`, one fully connected layer of 2,000 kernels, soft rule, after Moraitis et
  al., "SoftHebb: Bayesian inference in unsupervised Hebbian soft winner-take-all networks" (2022).
  The convolutional network behind the paper's 99.4 % is not among the presets.
- `cifar10`: `4SoftHebbCnnCIFAR`, three layers; published: 80.3 %.
- `stl10`: `5SoftHebbCnnSTL`, four layers; published: 76.2 %.

They were trained with batches of 10 (`cifar10`) and 32 (`stl10`) in one epoch, and their linear
heads afterwards, with dropout of 0.5.
"""

from __future__ import annotations

from typing import Any, Literal

from insitu.models.hebbian_options import BlockOptions

PublishedNetwork = Literal["mnist", "cifar10", "stl10"]


def _softhebb(
    kernels: int, kernel_size: int, t: float, eta: float, power: float, pool: tuple[Any, ...]
) -> BlockOptions:
    kind, size, stride, padding = pool
    return BlockOptions.model_validate(
        {
            "kernels": kernels,
            "kernel_size": kernel_size,
            "rule": {"name": "softhebb", "options": {"inverse_temperature": t}},
            "eta": eta,
            "activation_parameter": power,
            "pool": {"kind": kind, "size": size, "stride": stride, "padding": padding},
        }
    )


def published_blocks(network: PublishedNetwork) -> tuple[BlockOptions, ...]:
    """The blocks of a published network, at its width.

    Example:
        >>> [block.kernels for block in published_blocks("cifar10")]
        [96, 384, 1536]
    """
    if network == "mnist":
        return (_mnist(),)
    if network == "cifar10":
        return (
            _softhebb(96, 5, 1.0, 0.08, 0.7, ("max", 4, 2, 1)),
            _softhebb(384, 3, 0.65, 0.005, 1.4, ("max", 4, 2, 1)),
            _softhebb(1536, 3, 0.25, 0.01, 1.0, ("average", 2, 2, 0)),
        )
    return (
        _softhebb(96, 5, 1.0, 0.08, 0.7, ("average", 4, 2, 1)),
        _softhebb(384, 3, 0.65, 0.005, 0.7, ("max", 4, 2, 1)),
        _softhebb(1536, 3, 0.45, 0.01, 1.4, ("average", 4, 2, 1)),
        _softhebb(6144, 3, 0.25, 0.01, 1.0, ("average", 2, 2, 0)),
    )


def _mnist() -> BlockOptions:
    return BlockOptions.model_validate(
        {
            "kernels": 2000,
            "rule": {"name": "soft", "options": {"inverse_temperature": 12.0}},
            "eta": 0.045,
            "rate_power": 0.2,
            "initial_weights": "positive",
            "radius": 35.0,
            "standardise": False,
            "activation": "softmax",
            "activation_parameter": 5.0,
        }
    )
