"""Injection of latents: zero effect at first, and an effect to learn."""

import pytest
import torch

from tests.unit.vae.models import SIZE, latents, rows_of, small_decoder

MODES = ["soft_prompt", "kv_memory", "input_embedding"]


@pytest.mark.parametrize("mode", MODES)
def test_a_latent_has_exactly_no_effect_at_first(mode):
    decoder, grammar = small_decoder(mode)
    ids = rows_of(grammar, 6)
    with torch.inference_mode():
        alone = decoder(ids, None)
        assert torch.equal(decoder(ids, latents(6)), alone)
        assert torch.equal(decoder(ids, 100 * latents(6, seed=1)), alone)


def test_key_value_memories_start_at_zero():
    decoder, _ = small_decoder("kv_memory")
    memories = decoder.injector.memories(latents(4), 4)
    assert len(memories) == SIZE.num_layers
    for keys, values in memories:
        assert keys.shape == values.shape == (4, SIZE.num_heads, 3, SIZE.width // SIZE.num_heads)
        assert not keys.any()
        assert not values.any()


@pytest.mark.parametrize("mode", MODES)
def test_all_latents_are_alike_at_first_and_differ_after_a_step(mode):
    decoder, grammar = small_decoder(mode)
    ids = rows_of(grammar, 6)
    first = decoder(ids, latents(6))
    torch.testing.assert_close(decoder(ids, latents(6, seed=1)), first)
    first.sum().backward()
    gradient = decoder.injector.output.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0
    with torch.no_grad():
        decoder.injector.output.weight -= 0.1 * gradient
        change = decoder(ids, latents(6)) - decoder(ids, latents(6, seed=1))
    assert float(change.abs().min()) > 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_a_latent_only_moves_its_own_record(mode):
    decoder, grammar = small_decoder(mode)
    torch.nn.init.normal_(decoder.injector.output.weight)
    ids, z = rows_of(grammar, 4), latents(4)
    moved = z.clone()
    moved[2] += 1
    with torch.inference_mode():
        change = (decoder(ids, moved) - decoder(ids, z)).abs()
    assert float(change[2]) > 1e-3
    torch.testing.assert_close(change[[0, 1, 3]], torch.zeros(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "prompts", "memories", "shifts"),
    [("soft_prompt", 3, 0, False), ("kv_memory", 1, 3, False), ("input_embedding", 1, 0, True)],
)
def test_each_mode_uses_its_own_way(mode, prompts, memories, shifts):
    injector = small_decoder(mode)[0].injector
    z = latents(2)
    assert injector.num_prompts == prompts
    assert injector.num_memories == memories
    assert injector.prompts(z, 2).shape == (2, prompts, SIZE.width)
    assert torch.equal(injector.prompts(None, 2), injector.null_prompts.expand(2, -1, -1))
    assert bool(injector.memories(z, len(z))) == bool(memories)
    assert (injector.token_shift(z) is not None) == shifts
    assert injector.token_shift(None) is None
