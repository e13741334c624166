"""Low-rank adaptation: what it adds, what learns, and that it leaves a plain network behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medseg.prompting.sam.lora import RANK, LowRankUpdate, add_low_rank, merge_low_rank

pytest.importorskip("transformers", reason="SAM needs transformers: pip install 'medseg[prompting]'")
FEATURES, BLOCKS = 32, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder() -> Any:
    """Of the smallest SAM that is one: 32 features, 2 blocks."""
    from benchmarks.finetune_sam import small_sam

    return small_sam(64, FEATURES, BLOCKS, seed=0).vision_encoder.eval()


def trained(network: Any) -> None:
    """Give the updates something that they might have learnt."""
    random = generator(3)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if ".up." in name:
                value.copy_(torch.randn(value.shape, generator=random))


def test_with_a_pencil():
    update = LowRankUpdate(torch.zeros(6, 2), 1, generator())
    with torch.no_grad():
        for parameter, numbers in (
            (update.down[0], [[1.0, 2.0]]),
            (update.down[1], [[0.0, 5.0]]),
            (update.up[0], [[3.0], [0.0]]),
            (update.up[1], [[1.0], [-1.0]]),
        ):
            parameter.copy_(torch.tensor(numbers))
    expected = torch.tensor([[3.0, 6.0], [0, 0], [0, 0], [0, 0], [0, 5], [0, -5]])  # queries, keys, values
    assert torch.equal(update(torch.zeros(6, 2)), expected)
    assert torch.equal(update(torch.ones(6, 2)), expected + 1)


def test_it_begins_as_the_network_it_adapts():
    network, pixels = encoder(), torch.rand(1, 3, 64, 64, generator=generator())
    with torch.no_grad():
        before = network(pixels).last_hidden_state
        add_low_rank(network, generator())
        assert torch.equal(network(pixels).last_hidden_state, before)
        trained(network)
        assert not torch.allclose(network(pixels).last_hidden_state, before, atol=1e-2)


@pytest.mark.parametrize("rank", [1, RANK])
def test_what_learns_is_few_and_of_that_rank(rank: int):
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    add_low_rank(network, generator(), rank)
    learning = [value for value in network.parameters() if value.requires_grad]
    assert sum(value.numel() for value in learning) == BLOCKS * 2 * (rank * FEATURES + FEATURES * rank)
    trained(network)
    for block in range(BLOCKS):
        change = network.layers[block].attn.qkv.weight - before[f"layers.{block}.attn.qkv.weight"]
        queries, keys, values = change.detach().split(FEATURES)
        assert torch.linalg.matrix_rank(queries, atol=1e-4) == rank
        assert torch.linalg.matrix_rank(values, atol=1e-4) == rank
        assert not keys.any()


def test_merged_it_is_a_plain_network_that_answers_the_same():
    network, pixels = encoder(), torch.rand(1, 3, 64, 64, generator=generator())
    names, kind = list(network.state_dict()), type(network.layers[0].attn.qkv)
    add_low_rank(network, generator())
    trained(network)
    with torch.no_grad():
        before = network(pixels).last_hidden_state
        merge_low_rank(network)
        assert torch.equal(network(pixels).last_hidden_state, before)
    assert sorted(network.state_dict()) == sorted(names)
    assert kind is type(network.layers[0].attn.qkv) is nn.Linear
    merge_low_rank(network)  # nothing left to do


def test_the_same_generator_gives_the_same_beginning():
    one, two, other = encoder(), encoder(), encoder()
    for network, seed in ((one, 1), (two, 1), (other, 2)):
        add_low_rank(network, generator(seed))
    pairs = [
        (a, b, c) for a, b, c in zip(*(network.state_dict().values() for network in (one, two, other)), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert sum(not torch.equal(a, c) for a, _, c in pairs) == BLOCKS * 2  # both matrices A of a block
