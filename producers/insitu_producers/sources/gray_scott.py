"""The Gray-Scott reaction-diffusion system in two dimensions, solved with numpy.

Two chemicals u and v: U is fed, turns into V where V is (u + 2v -> 3v), and V is removed:

    du/dt = Du lap(u) - u v^2 + F (1 - u)
    dv/dt = Dv lap(v) + u v^2 - (F + k) v

on a periodic grid of unit spacing, by explicit Euler steps and the five-point Laplacian, as in
Pearson, "Complex Patterns in a Simple System", Science 261 (1993), 189-192. The feed rate F and
the kill rate k decide what grows: spots that divide, stripes, turbulent waves, holes. We differ in
the scale: Pearson takes Du = 2e-5 at a spacing of 0.01; with spacing 1 and a time step of 1 the
patterns are about ten cells wide for Du = 0.16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Fields = NDArray[np.float32]


@dataclass(frozen=True)
class Regime:
    """A pair of rates with a name: what kind of pattern grows."""

    name: str
    feed: float
    kill: float


#: Regimes whose patterns differ to the eye, in the order in which the source visits them.
REGIMES = (
    Regime("spots", feed=0.030, kill=0.0620),
    Regime("stripes", feed=0.040, kill=0.0600),
    Regime("waves", feed=0.018, kill=0.0510),
    Regime("holes", feed=0.046, kill=0.0594),
)


class GrayScott:
    """Independent runs (members) of the same system, stepped together.

    Args:
        generator: where disturbances are drawn from.
        members: how many independent runs.
        size: cells along each side of the periodic square.

    Attributes:
        fields: (members, 2, size, size) float32, u and v. Changed in place by `advance`.

    Example:
        >>> simulation = GrayScott(np.random.default_rng(0), members=2, size=32)
        >>> simulation.begin(REGIMES[0], patches=3)
        >>> simulation.advance(steps=10)
        >>> simulation.fields.shape, bool(np.isfinite(simulation.fields).all())
        ((2, 2, 32, 32), True)
    """

    diffusion_u = np.float32(0.16)
    diffusion_v = np.float32(0.08)

    def __init__(self, generator: np.random.Generator, *, members: int, size: int) -> None:
        self.generator = generator
        self.regime = REGIMES[0]
        self.fields: Fields = np.zeros((members, 2, size, size), np.float32)
        self.fields[:, 0] = 1.0
        self._laplacian = np.empty_like(self.fields)
        self._reaction = np.empty_like(self.fields[:, 0])

    def begin(self, regime: Regime, *, patches: int) -> None:
        """Start every member anew under `regime`: u = 1, v = 0, and some patches of V."""
        self.regime = regime
        self.fields[:, 0] = 1.0
        self.fields[:, 1] = 0.0
        for member in range(len(self.fields)):
            self.disturb(member, patches=patches)

    def disturb(self, member: int, *, patches: int, u: float = 0.50, v: float = 0.25) -> None:
        """Set squares of 7 x 7 cells at random places to `u` and `v`, with 10 % noise."""
        size = self.fields.shape[-1]
        window = np.arange(-3, 4)
        for row, column in self.generator.integers(0, size, (patches, 2)):
            place = np.ix_((row + window) % size, (column + window) % size)
            noise = self.generator.uniform(0.9, 1.1, (2, len(window), len(window)))
            self.fields[member, 0][place] = u * noise[0]
            self.fields[member, 1][place] = v * noise[1]

    def advance(self, steps: int) -> None:
        """Take explicit Euler steps of length 1."""
        feed, kill = np.float32(self.regime.feed), np.float32(self.regime.kill)
        u, v = self.fields[:, 0], self.fields[:, 1]
        change_u, change_v = self._laplacian[:, 0], self._laplacian[:, 1]
        for _ in range(steps):
            periodic_laplacian(self.fields, out=self._laplacian)
            np.multiply(v, v, out=self._reaction)
            self._reaction *= u
            change_u *= self.diffusion_u
            change_u -= self._reaction
            change_u += feed
            change_v *= self.diffusion_v
            change_v += self._reaction
            u *= 1 - feed
            v *= 1 - feed - kill
            self.fields += self._laplacian


def periodic_laplacian(fields: Fields, *, out: Fields) -> None:
    """Five-point Laplacian over the last two axes, with periodic ends, written into `out`.

    Example:
        >>> x = np.cos(2 * np.pi * np.arange(64) / 64)[None, :] * np.ones((64, 1))
        >>> out = np.empty_like(x)
        >>> periodic_laplacian(x, out=out)
        >>> bool(np.allclose(out, (2 * np.cos(2 * np.pi / 64) - 2) * x))
        True
    """
    np.multiply(fields, -4.0, out=out)
    out[..., 1:, :] += fields[..., :-1, :]
    out[..., :1, :] += fields[..., -1:, :]
    out[..., :-1, :] += fields[..., 1:, :]
    out[..., -1:, :] += fields[..., :1, :]
    out[..., :, 1:] += fields[..., :, :-1]
    out[..., :, :1] += fields[..., :, -1:]
    out[..., :, :-1] += fields[..., :, 1:]
    out[..., :, -1:] += fields[..., :, :1]
