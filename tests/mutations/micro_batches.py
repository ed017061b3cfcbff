"""Micro-batches without what makes them exact."""

from __future__ import annotations

from mutations.base import Mutation, constantly

TESTS = "tests/test_micro_batches.py"

_MODULE = "insitu.trainer.micro_batches"

MUTATIONS = {
    "micro_batches: nothing flows back to the weights": Mutation(
        f"{_MODULE}:Passes.backward", constantly(None), TESTS
    ),
    "micro_batches: both passes count": Mutation(
        f"{_MODULE}:Passes._uncount", constantly(None), TESTS
    ),
    "micro_batches: the second pass drops other elements": Mutation(
        f"{_MODULE}:state.load_generators", constantly(None), TESTS
    ),
    "micro_batches: memory never runs out": Mutation(
        "insitu.trainer.trainer:is_out_of_memory", constantly(False), TESTS
    ),
}
