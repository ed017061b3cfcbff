"""Parameters and operations of a model: by hand, and recurrent layers against loops of cells."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from insitu.analysis import model_cost

CELLS: dict[type[nn.RNNBase], type[nn.RNNCellBase]] = {
    nn.RNN: nn.RNNCell,
    nn.GRU: nn.GRUCell,
    nn.LSTM: nn.LSTMCell,
}


def loop_flops(
    kind: type[nn.RNNBase], *, layers: int, directions: int, steps: int, learned_inputs: bool
) -> tuple[int, int]:
    """The same network as a loop of cells, forward and backward, by torch's own counter."""
    size, hidden, batch = 5, 7, 3
    with FlopCounterMode(display=False) as counter:
        sequence = [torch.zeros(batch, size, requires_grad=learned_inputs) for _ in range(steps)]
        for _ in range(layers):
            outputs = []
            for _ in range(directions):
                cell = CELLS[kind](sequence[0].shape[1], hidden)
                state: Any = None
                row = []
                for inputs in sequence:
                    state = cell(inputs, state)
                    row.append(state[0] if isinstance(state, tuple) else state)
                outputs.append(row)
            sequence = [torch.cat(parts, 1) for parts in zip(*outputs, strict=True)]
        forward = int(counter.get_total_flops())
        torch.stack(sequence).sum().backward()
    return forward, int(counter.get_total_flops()) - forward


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_cost_what_their_cells_cost_in_a_loop(
    kind: type[nn.RNNBase], layers: int, bidirectional: bool, batch_first: bool
) -> None:
    module = kind(5, 7, layers, bidirectional=bidirectional, batch_first=batch_first)
    for learned_inputs in (False, True):
        inputs = torch.zeros((3, 4, 5) if batch_first else (4, 3, 5), requires_grad=learned_inputs)
        cost = model_cost(module, lambda inputs=inputs: module(inputs)[0])
        assert (cost.flops, cost.backward_flops) == loop_flops(
            kind,
            layers=layers,
            directions=1 + bidirectional,
            steps=4,
            learned_inputs=learned_inputs,
        )
    assert cost.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection_is_counted() -> None:
    """By hand: 4 gates from 5 inputs and 2 outputs, then 7 hidden to 2; the second from 2."""
    module = nn.LSTM(5, 7, 2, proj_size=2)
    cost = model_cost(module, lambda: module(torch.zeros(4, 3, 5)))
    first, second = 4 * 7 * (5 + 2) + 7 * 2, 4 * 7 * (2 + 2) + 7 * 2
    assert cost.flops == 2 * 4 * 3 * (first + second)


def test_a_packed_sequence_costs_its_real_steps() -> None:
    module = nn.GRU(5, 7)
    packed = pack_padded_sequence(torch.zeros(4, 2, 5), torch.tensor([4, 1]))
    assert model_cost(module, lambda: module(packed)).flops == 2 * 5 * 3 * 7 * (5 + 7)


def test_a_sequence_without_batch() -> None:
    module = nn.RNN(5, 7)
    assert model_cost(module, lambda: module(torch.zeros(4, 5))).flops == 2 * 4 * 7 * (5 + 7)


class Mixed(nn.Module):
    """A convolution, a recurrent layer, a weight of its own, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(2, 3, 3, bias=False)
        self.recurrent = nn.LSTM(3, 4, batch_first=True)
        self.weight = nn.Parameter(torch.zeros(4, 5))
        self.head = nn.Sequential(nn.Linear(5, 5), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.recurrent(self.convolution(inputs).transpose(1, 2))
        result: Tensor = self.head(self.head(outputs[:, -1] @ self.weight))
        return result


def test_every_layer_by_hand() -> None:
    model = Mixed().train()
    cost = model_cost(model, lambda: model(torch.zeros(1, 2, 8)))
    found = {layer.name: (layer.kind, layer.parameters, layer.flops) for layer in cost.layers}
    assert found == {
        "": ("Mixed", 20, 2 * 4 * 5),
        "convolution": ("Conv1d", 18, 2 * 6 * 3 * 2 * 3),
        "recurrent": ("LSTM", 4 * 4 * (3 + 4) + 2 * 16, 2 * 6 * 4 * 4 * (3 + 4)),
        "head.0": ("Linear", 30, 2 * 2 * 25),
    }
    assert cost.flops == sum(flops for _, _, flops in found.values())
    assert cost.as_dict()["layers"][0]["name"] == ""
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_part_that_is_called_from_outside_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))
    cost = model_cost(model, lambda: model[1](model[0](torch.zeros(1, 3))))
    assert [(layer.name, layer.flops) for layer in cost.layers] == [("0", 24), ("1.0", 16)]


def test_shared_weights_count_once_and_batch_statistics_stay() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.BatchNorm1d(3), shared)
    statistics = [buffer.clone() for buffer in model.buffers()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost = model_cost(model, lambda: model(torch.ones(1, 3)))
    assert (cost.parameters, cost.flops) == (12 + 6, 2 * 2 * 9)
    for before, after in zip(statistics, model.buffers(), strict=True):
        assert torch.equal(before, after)


def test_backward_by_hand() -> None:
    """Weights once more; inputs once more, but for the first layer; a weight used twice, twice."""
    model = Mixed().train()
    cost = model_cost(model, lambda: model(torch.zeros(1, 2, 8)))
    found = {layer.name: layer.backward_flops for layer in cost.layers}
    assert found == {
        "": 2 * (2 * 4 * 5),
        "convolution": 2 * 6 * 3 * 2 * 3,
        "recurrent": 2 * (2 * 6 * 4 * 4 * 3) + (2 * 6 + 2 * 5) * 4 * 4 * 4,
        "head.0": 2 * (2 * 2 * 25),
    }
    assert cost.backward_flops == sum(found.values())
    assert cost.as_dict()["backward_flops"] == cost.backward_flops
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_cost_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    cost = model_cost(model, lambda: model(torch.zeros(1, 3)))
    # the last one passes the gradient on, the middle one has that of its weights alone
    assert [layer.backward_flops for layer in cost.layers] == [0, 2 * 20, 2 * 10]
    model.requires_grad_(False)
    assert model_cost(model, lambda: model(torch.zeros(1, 3))).backward_flops == 0
