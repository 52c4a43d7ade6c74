"""The decoder's likelihood against a brute-force sum over the allowed tokens."""

import copy
import math

import numpy as np
import pytest
import torch

from difflm_core.vae.decoder import SlotTable, order_embeddings
from tests.unit.vae.models import latents, rows_of, small_codec, small_decoder


def brute_force(decoder, grammar, row, z):
    """NLL of one record: full-vocabulary logits of the plain model, token by token."""
    model = copy.deepcopy(decoder.language_model)
    model.set_attn_implementation("eager")
    total = 0.0
    for t, slot in enumerate(grammar.slots):
        live = t == 0 or slot.gate is None or slot.gate[0] <= row[t - 1] < slot.gate[1]
        if not live:
            continue
        tokens = model.transformer.wte(row[None, :t])
        prompts = decoder.injector.prompts(z, 1)
        shift = decoder.injector.token_shift(z)
        if shift is not None:
            tokens = tokens + shift
        logits = model(inputs_embeds=torch.cat([prompts, tokens], dim=1)).logits[0, -1]
        allowed = logits[slot.start : slot.stop]
        total -= float(allowed[row[t] - slot.start] - allowed.logsumexp(dim=0))
    return total


@pytest.mark.parametrize("mode", ["soft_prompt", "input_embedding"])
def test_the_likelihood_is_a_sum_over_allowed_tokens_only(mode):
    decoder, grammar = small_decoder(mode)
    torch.nn.init.normal_(decoder.injector.output.weight, std=0.3)
    ids, z = rows_of(grammar, 8), latents(8)
    with torch.inference_mode():
        assert 0 < float(SlotTable(grammar).live(ids).float().mean()) < 1
        for latent in (z, None):
            found = decoder(ids, latent)
            expected = [
                brute_force(decoder, grammar, row, None if latent is None else z[i : i + 1])
                for i, row in enumerate(ids)
            ]
            torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_the_probabilities_of_all_records_sum_to_one():
    """Over a grammar small enough to list every sentence, with a gated slot."""
    from difflm_core.codec.grammar import Grammar, Slot

    grammar = Grammar([Slot(0, 4), Slot(4, 7, gate=(2, 4), idle=7), Slot(8, 10)], vocab_size=10)
    decoder, _ = small_decoder(grammar=grammar)
    rows = [
        [a, b, c] for a in range(4) for b in (range(4, 7) if a >= 2 else [7]) for c in range(8, 10)
    ]
    assert grammar.accepts(np.array(rows)).all()
    with torch.inference_mode():
        nll = decoder(torch.tensor(rows), latents(1).expand(len(rows), -1))
    assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("mode", ["soft_prompt", "kv_memory", "input_embedding"])
def test_bfloat16_gives_nearly_the_same_likelihood_and_gradient(mode):
    found = []
    for precision in (torch.float32, torch.bfloat16):
        decoder, grammar = small_decoder(mode)
        torch.nn.init.normal_(decoder.injector.output.weight, std=0.3)
        decoder.precision = precision
        nll = decoder(rows_of(grammar, 64), latents(64))
        nll.mean().backward()
        assert nll.dtype is torch.float32
        found.append((nll.detach(), decoder.embeddings.weight.grad.flatten()))
    (nll, gradient), (nll_16, gradient_16) = found
    assert not torch.equal(nll, nll_16)
    torch.testing.assert_close(nll_16, nll, rtol=0.03, atol=0.5)
    assert float(torch.cosine_similarity(gradient, gradient_16, dim=0)) > 0.99


def test_idle_slots_cost_nothing():
    decoder, grammar = small_decoder()
    ids = rows_of(grammar, 64)
    slots = decoder.slots
    live = slots.live(ids)
    assert np.array_equal(live.numpy(), grammar.live(ids.numpy()))
    with torch.inference_mode():
        logits = decoder.slot_logits(decoder.hidden_states(ids, None))
    assert bool((logits[:, slots.forbidden == -math.inf] == -math.inf).all())
    local = (ids - slots.start).clamp(0, slots.largest - 1)
    cost = -logits.log_softmax(dim=2).gather(2, local[..., None])[..., 0]
    with torch.inference_mode():
        torch.testing.assert_close(decoder(ids, None), torch.where(live, cost, 0).sum(dim=1))


@pytest.mark.parametrize("mode", ["soft_prompt", "kv_memory", "input_embedding"])
def test_a_batch_is_scored_like_its_rows(mode):
    decoder, grammar = small_decoder(mode)
    torch.nn.init.normal_(decoder.injector.output.weight, std=0.3)
    ids, z = rows_of(grammar, 5), latents(5)
    with torch.inference_mode():
        whole = decoder(ids, z)
        single = torch.cat([decoder(ids[i : i + 1], z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, single)


@pytest.mark.parametrize("mode", ["soft_prompt", "kv_memory", "input_embedding"])
def test_no_slot_sees_itself_or_what_follows(mode):
    decoder, grammar = small_decoder(mode)
    torch.nn.init.normal_(decoder.injector.output.weight, std=0.3)
    ids, other, z = rows_of(grammar, 3), rows_of(grammar, 3, seed=1), latents(3)
    with torch.inference_mode():
        states = decoder.hidden_states(ids, z)
        for t in range(len(grammar)):
            mixed = torch.cat([ids[:, :t], other[:, t:]], dim=1)
            again = decoder.hidden_states(mixed, z)
            torch.testing.assert_close(again[:, : t + 1], states[:, : t + 1])
        assert not torch.allclose(decoder.hidden_states(other, z)[:, 1:], states[:, 1:], atol=1e-2)


def test_ordered_tokens_start_alike_and_others_stay():
    codec = small_codec()
    embeddings = torch.nn.Embedding(codec.grammar.vocab_size, 32)
    before = embeddings.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    order_embeddings(embeddings, codec.vocab_order, codec.grammar, generator)
    after = embeddings.weight.detach()
    unordered = torch.from_numpy(np.isnan(codec.vocab_order))
    assert unordered.any()
    assert torch.equal(after[unordered], before[unordered])
    slot = codec.grammar.slots[-3]  # the first digit of the last column
    digits = after[slot.start : slot.stop]
    steps = (digits[1:] - digits[:-1]).norm(dim=1)
    assert float(steps.max()) < float((digits[0] - digits[-1]).norm())
    # A coordinate varies with the scale 4 * 0.02 of ordered embeddings.
    spread = float((digits - digits.mean(0)).square().mean().sqrt())
    assert 0.03 < spread < 0.16
