"""The door: which rows of a finished batch may enter the stream buffer.

Checks values, after the wire has checked form: non-finite numbers, and fields outside of the
range that the configuration or the objective gives. Works on numpy views of the rows as they
lie in the ring, so nothing is copied. Pure: no sockets, no locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from insitu.schema import Field, Schema

Views = Mapping[str, np.ndarray]
_BFLOAT16_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True)
class Refusal:
    """Rows that may not enter, and why in words for the producer."""

    code: str  # a NACK code: "non_finite" or "range"
    text: str
    bad_rows: np.ndarray  # (rows,) bool


class Door:
    """Admits or refuses the rows of a batch.

    Args:
        schema: of the stream.
        ranges: field name -> (minimum, maximum), both allowed; None for no bound.
        non_finite: `quarantine` refuses rows with NaN or infinity, `clip` mends them in place
            (NaN to 0, infinities to the field's bound, or else to the largest finite magnitude
            of the field in the batch), `accept` looks the other way.
    """

    def __init__(
        self,
        schema: Schema,
        ranges: Mapping[str, tuple[float | None, float | None]],
        non_finite: str = "quarantine",
    ) -> None:
        self._floating = [f for f in schema.fields if _is_floating(f)]
        self._ranges = {name: bounds for name, bounds in ranges.items() if bounds != (None, None)}
        self._bfloat16 = {f.name for f in schema.fields if f.dtype == "bfloat16"}
        self._non_finite = non_finite
        self.clipped_values = 0

    @property
    def mends(self) -> bool:
        """Whether `inspect` may write to the views it is given."""
        return self._non_finite == "clip"

    def inspect(self, views: Views) -> Refusal | None:
        """None when all rows may enter; else every row that may not, whatever its fault.

        The code is that of the first fault; the text names one for each field at fault.
        """
        refusals = [*self._non_finite_rows(views), *self._rows_out_of_range(views)]
        if not refusals:
            return None
        bad = np.logical_or.reduce([refusal.bad_rows for refusal in refusals])
        text = "; ".join(refusal.text for refusal in refusals)
        return Refusal(refusals[0].code, text, bad)

    def _non_finite_rows(self, views: Views) -> Iterator[Refusal]:
        if self._non_finite == "accept":
            return
        for field in self._floating:
            view = views[field.name]
            finite = _finite(view, field.dtype)
            if finite.all():
                continue
            if self.mends:
                self.clipped_values += _clip(view, field.dtype, self._ranges.get(field.name))
                continue
            bad = _any_per_row(~finite)
            yield Refusal("non_finite", _non_finite_text(field, bad), bad)

    def _rows_out_of_range(self, views: Views) -> Iterator[Refusal]:
        for name, (low, high) in self._ranges.items():
            view = views[name]
            if name in self._bfloat16:
                view = (view.astype(np.uint32) << 16).view(np.float32)
            refusal = _outside(name, view, low, high)
            if refusal is not None:
                yield refusal


def _is_floating(field: Field) -> bool:
    return field.dtype == "bfloat16" or field.numpy_dtype.kind in "fc"


def _finite(view: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return np.asarray((view & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT)
    return np.asarray(np.isfinite(view))


def _any_per_row(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))


def _clip(view: np.ndarray, dtype: str, bounds: tuple[float | None, float | None] | None) -> int:
    """Mend `view` in place; returns how many values were changed."""
    low, high = bounds or (None, None)
    finite = _finite(view, dtype)
    count = int(view.size - np.count_nonzero(finite))
    if dtype == "bfloat16":  # no arithmetic on its bits in numpy: every odd value becomes 0
        view[~finite] = 0
        return count
    largest = np.abs(view[finite]).max() if finite.any() else 0.0
    if view.dtype.kind == "c":
        view[~finite] = 0
        return count
    np.nan_to_num(
        view,
        copy=False,
        nan=0.0,
        posinf=largest if high is None else high,
        neginf=-largest if low is None else low,
    )
    return count


def _non_finite_text(field: Field, bad: np.ndarray) -> str:
    return (
        f"field {field.name!r}: {int(bad.sum())} of {len(bad)} rows hold NaN or infinity "
        f"(first in row {int(bad.argmax())}); these rows are quarantined; "
        "stream.non_finite: clip or accept would let them in"
    )


def _outside(name: str, view: np.ndarray, low: float | None, high: float | None) -> Refusal | None:
    smallest, largest = view.min(), view.max()
    if (low is None or smallest >= low) and (high is None or largest <= high):
        return None
    outside = np.zeros(view.shape, bool)
    if low is not None:
        outside |= view < low
    if high is not None:
        outside |= view > high
    if not outside.any():  # NaN, let in by `accept`, is neither inside nor outside
        return None
    bad = _any_per_row(outside)
    value = view[outside].flat[0]
    text = (
        f"field {name!r}: value {value} in row {int(bad.argmax())} is outside of "
        f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]; "
        f"{int(bad.sum())} of {len(bad)} rows are quarantined; push values in this range, or "
        f"change stream.fields.{name} and the objective's options"
    )
    return Refusal("range", text, bad)
