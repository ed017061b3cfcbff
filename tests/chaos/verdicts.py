"""What the figures must be; each function names what is not, and is silent otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.bad_network import NetworkFigures
from chaos.decoder_fuzz import DecoderFigures
from chaos.fairness_figures import FairnessFigures
from chaos.fuzz import FuzzFigures
from chaos.killing_figures import KillingFigures
from chaos.soak_figures import SoakFigures
from chaos.socket_fuzz import SocketFigures

#: of a process whose pools and caches are full; more is growth
MOST_GROWN_BYTES = 16 << 20
_MOST_GROWN_SHARE = 0.02
_LEAST_THROUGHPUT_SHARE = 0.95
#: of a shorter run the intervals are so short that their rates say nothing
_LEAST_SOAK_SECONDS = 600.0
_SLOWEST_SECONDS = 5.0
_MOST_OFF_SHARE = 0.10
_MOST_P99_SHARE = 1.20
#: of fewer the p99 of a round is what the machine happened to do
_LEAST_ROUNDS = 5

Figures = (
    DecoderFigures
    | SocketFigures
    | FuzzFigures
    | NetworkFigures
    | KillingFigures
    | SoakFigures
    | FairnessFigures
)


def problems(figures: Figures) -> list[str]:
    """What is wrong with these figures; empty when nothing is."""
    return [text for text, wrong in _checks(figures) if wrong]


def _checks(figures: Figures) -> Iterator[tuple[str, bool]]:
    if isinstance(figures, KillingFigures):
        yield "the weights are not those of an undisturbed run", bool(figures.differences)
        yield "a replay of the log gives other weights", bool(figures.replay_differences)
        yield "log verify finds flaws", bool(figures.flaws)
        untorn = figures.plan.level == "logged" and not figures.plan.power
        yield "steps were repeated with other rows", untorn and figures.changed_steps > 0
        yield "samples were lost", figures.plan.lossless and figures.lost > 0
        yield "nothing was forgotten", figures.plan.power and figures.forgotten_bytes == 0
    elif isinstance(figures, NetworkFigures):
        met = figures.weather["cut"] + figures.weather["reorder"]
        yield "no connection was cut", met == 0
    elif isinstance(figures, SoakFigures):
        yield "memory grew", abs(figures.grown_share) > _MOST_GROWN_SHARE
        leaked = figures.measures[-1].descriptors - figures.measures[2].descriptors
        yield "descriptors leaked", leaked > 2
        if figures.measures[-1].at_seconds >= _LEAST_SOAK_SECONDS:
            fell = figures.throughput_share < _LEAST_THROUGHPUT_SHARE
            yield "others used the machine: its throughput is not known", not figures.is_quiet
            yield "throughput fell", figures.is_quiet and fell
    elif isinstance(figures, FairnessFigures):
        yield "shares are not equal", figures.most_off > _MOST_OFF_SHARE
        timed = len(figures.alone) >= _LEAST_ROUNDS
        yield "bad neighbours cost time", timed and figures.p99_share > _MOST_P99_SHARE
        yield "nobody was hostile", bool(figures.alone) and not figures.hostile
    else:
        yield "memory grew", figures.grown_bytes > MOST_GROWN_BYTES
    if isinstance(figures, SocketFigures):
        yield "messages are in no count", figures.counted != figures.sent
        yield "descriptors leaked", figures.grown_descriptors > 2
        yield "answers were slow", figures.slowest_answer_seconds > _SLOWEST_SECONDS
