"""Blocks of a Hebbian network as they are written in a configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from insitu.component import find
from insitu.errors import OperatorError
from insitu.layers.block import Pooling
from insitu.layers.initial_weights import InitialWeights
from insitu.layers.learning_rates import AdaptiveRates, ConstantRates, LearningRates, LinearRates
from insitu.layers.padding import PaddingMode
from insitu.layers.rules.base import Rule


class RuleChoice(BaseModel):
    """A Hebbian rule by name, with its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(description="file name in insitu/layers/rules")] = "softhebb"
    options: Annotated[dict[str, Any], Field(description="of the rule, by name")] = {}

    @model_validator(mode="after")
    def _check(self) -> RuleChoice:
        self.make()
        return self

    def make(self) -> Rule:
        """The rule itself.

        Raises:
            ValueError: no such rule, or an option that it does not take.
        """
        try:
            rule: Rule = find("insitu.layers.rules", self.name).build(self.options, {})
        except OperatorError as error:
            raise ValueError(f"{error.message}; allowed: {error.allowed}") from None
        return rule


class PoolOptions(BaseModel):
    """A pool over places."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[Pooling, Field(description="largest value of a window, or its mean")] = "max"
    size: Annotated[
        int, Field(ge=1, description="side of a window", json_schema_extra={"unit": "places"})
    ] = 2
    stride: Annotated[
        int | None,
        Field(
            ge=1,
            description="step between windows; null: as the size",
            json_schema_extra={"unit": "places"},
        ),
    ] = None
    padding: Annotated[
        int,
        Field(
            ge=0,
            description="places added on both sides, at most half of the size",
            json_schema_extra={"unit": "places"},
        ),
    ] = 0


class BlockOptions(BaseModel):
    """Standardise, Hebbian layer, activation, pool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernels: Annotated[
        int, Field(ge=1, description="of the layer", json_schema_extra={"unit": "kernels"})
    ]
    kernel_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="side of a kernel; null: a fully connected layer on all that comes in",
            json_schema_extra={"unit": "places"},
        ),
    ] = None
    stride: Annotated[
        int,
        Field(ge=1, description="step between patches", json_schema_extra={"unit": "places"}),
    ] = 1
    padding: Annotated[
        int | None,
        Field(
            ge=0,
            description="places added on both sides; null: half of the kernel's reach",
            json_schema_extra={"unit": "places"},
        ),
    ] = None
    dilation: Annotated[
        int,
        Field(ge=1, description="step within a patch", json_schema_extra={"unit": "places"}),
    ] = 1
    groups: Annotated[
        int,
        Field(
            ge=1,
            description="the channels are cut into so many, each seen by its share of the kernels",
            json_schema_extra={"unit": "groups"},
        ),
    ] = 1
    padding_mode: Annotated[
        PaddingMode, Field(description="what lies beyond the border; circular: the other side")
    ] = "reflect"
    rule: Annotated[RuleChoice, Field(description="what a kernel learns from a patch")] = (
        RuleChoice()
    )
    eta: Annotated[
        float, Field(gt=0.0, description="learning rate", json_schema_extra={"unit": "ratio"})
    ] = 0.01
    rates: Annotated[
        Literal["adaptive", "constant", "linear"],
        Field(
            description="`eta` by a kernel's norm, always `eta`, or down to 0 at `last_update`",
        ),
    ] = "adaptive"
    rate_power: Annotated[
        float,
        Field(
            ge=0.0,
            description="power q of eta |norm - 1|^q, for `adaptive`",
            json_schema_extra={"unit": "power"},
        ),
    ] = 0.5
    last_update: Annotated[
        int | None,
        Field(
            ge=1,
            description="where the rate is 0, for `linear`",
            json_schema_extra={"unit": "updates"},
        ),
    ] = None
    initial_weights: Annotated[
        InitialWeights, Field(description="how the first weights are drawn")
    ] = "normal"
    radius: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="norm of a kernel at first; null: what the rule needs, 1 for "
            "`supervised_soft` and 25 for all others",
            json_schema_extra={"unit": "norm"},
        ),
    ] = None
    plastic: Annotated[
        bool,
        Field(
            description="whether the block learns; else kernels and statistics stay as they begin"
        ),
    ] = True
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="of activations; weights, norms and statistics stay in float32"),
    ] = "float32"
    standardise: Annotated[
        bool, Field(description="standardise the input by channel over the batch")
    ] = True
    activation: Annotated[
        Literal["triangle", "softmax", "none"],
        Field(description="softmax only where `kernel_size` is null"),
    ] = "triangle"
    activation_parameter: Annotated[
        float,
        Field(
            gt=0.0,
            description="power of `triangle`, inverse temperature of `softmax`",
            json_schema_extra={"unit": "ratio"},
        ),
    ] = 1.0
    pool: Annotated[PoolOptions | None, Field(description="over places, or null")] = None

    @model_validator(mode="after")
    def _check(self) -> BlockOptions:
        if (self.rates == "linear") != (self.last_update is not None):
            raise ValueError(
                f"rates is {self.rates!r} and last_update {self.last_update}; `linear` needs "
                "last_update, and nothing else takes it"
            )
        if self.kernel_size is None:
            unused = ("stride", "padding", "dilation", "groups", "pool")
            given = [n for n in unused if getattr(self, n) != type(self).model_fields[n].default]
            if given:
                raise ValueError(
                    f"{', '.join(given)} is for convolutions; kernel_size is null, so the layer is "
                    "fully connected"
                )
        elif self.activation == "softmax":
            raise ValueError("activation is 'softmax', which is for kernel_size null")
        return self

    def learning_rates(self) -> LearningRates:
        """How fast the kernels move."""
        if self.last_update is not None:
            return LinearRates(self.eta, last_update=self.last_update)
        if self.rates == "constant":
            return ConstantRates(self.eta)
        return AdaptiveRates(self.eta, power=self.rate_power)
