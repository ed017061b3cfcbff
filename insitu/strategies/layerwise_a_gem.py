"""Layer-wise A-GEM: A-GEM's projection for every parameter tensor by itself.

After Chaudhry et al., "Efficient Lifelong Learning with A-GEM" (2019), eq. 11, and Tang et al.,
"Layerwise Optimization by Gradient Decomposition for Continual Learning" (2021), who project layer
by layer. For every parameter tensor l, with r as in `a_gem`,

    g_l <- g_l - min(0, <g_l, r_l>) / <r_l, r_l> r_l            adjust_gradients

so <g, r> >= 0 holds for the network as well, being a sum of products that are not negative.

Deviations: those of `a_gem`; weight and bias of a layer are two tensors, each with its own
projection; the decomposition of the gradient of the second paper is not made.

Costs: what A-GEM costs; the products of the tensors are summed up by themselves.

Keeps: the samples of the memory.

Use it when: layers differ in how they conflict: one that agrees with the memory no longer makes up
for one that does not, so more of the gradient is taken out and less is learned. It does not always
forget less than A-GEM (on split digits it ended at 46 %, A-GEM at 52 %): measure both.
"""

from __future__ import annotations

from typing import ClassVar

from insitu.strategies.a_gem import AGEM
from insitu.strategies.gradient_stack import Per


class LayerwiseAGEM(AGEM):
    """Takes out of the gradient of every tensor what would raise the loss on the memory."""

    name = "layerwise_a_gem"
    per: ClassVar[Per] = "tensor"


COMPONENT = LayerwiseAGEM
