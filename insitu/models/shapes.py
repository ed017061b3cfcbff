"""Shapes that a model was made for, against the shapes it is given."""

from __future__ import annotations

from torch import Tensor

from insitu.errors import OperatorError


def check_input(model: str, shape: tuple[int, ...], tensor: Tensor, what: str = "input") -> None:
    """Refuse a tensor that is not (rows, *shape)."""
    if tuple(tensor.shape[1:]) != shape or tensor.dim() == 0:
        raise OperatorError(
            f"model {model} was made for {what} (rows, {', '.join(map(str, shape))}) "
            f"and was given {tuple(tensor.shape)}",
            remedy="do the objective's input and the schema name the field that the model is for?",
        )


def split_channels(
    model: str, shape: tuple[int, ...], spatial_axes: int
) -> tuple[int, tuple[int, ...], bool]:
    """(channels, *spatial) or (*spatial) -> channels, spatial, whether channels are an axis."""
    if len(shape) == spatial_axes:
        return 1, shape, False
    if len(shape) == spatial_axes + 1:
        return shape[0], shape[1:], True
    raise OperatorError(
        f"model {model} cannot take fields of shape {list(shape)}",
        allowed=f"{spatial_axes} axes, or a channel axis and {spatial_axes} axes",
    )


def same_shape(model: str, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    """Refuse unlike shapes: an autoencoder gives what it takes."""
    if input_shape != output_shape:
        raise OperatorError(
            f"model {model} gives back the shape it takes, {list(input_shape)}, "
            f"but the objective wants {list(output_shape)}",
            remedy="use it with reconstruct or forecast, or take a model such as mlp",
        )
