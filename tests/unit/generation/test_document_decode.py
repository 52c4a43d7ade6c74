"""Tokens are drawn by their probabilities, within a grammar or without."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from difflm_core.codec.constraint import Constraint, json_grammar
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.generation.document_decode import (
    DocumentSampling,
    decode_documents,
    draw_tokens,
    forbid_,
)
from difflm_core.vae.document_decoder import DocumentDecoder
from difflm_core.vae.injection import LatentInjector

SAMPLING = DocumentSampling(8, end=(0,))


@pytest.mark.parametrize("vocab_size", [5, 64, 200, 4097])
def test_tokens_are_drawn_by_inversion(vocab_size):
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, vocab_size, generator=random)
    uniform = torch.linspace(0, 1, 20_001)[:-1]
    drawn = draw_tokens(logits.repeat(len(uniform), 1), uniform, SAMPLING)
    expected = torch.searchsorted(logits.double().softmax(1).cumsum(1)[0], uniform.double())
    # Single precision may move a border between two tokens a little.
    assert (drawn.diff() >= 0).all()
    assert (drawn != expected).float().mean() < 1e-3


@pytest.mark.parametrize("vocab_size", [40, 71])
def test_tokens_without_a_bit_are_never_drawn(vocab_size):
    """Bits come in whole words: there may be more of them than scores, or fewer."""
    random = np.random.default_rng(0)
    allowed = random.random((3, 64)) < 0.2
    allowed[:, 0] = True
    logits = torch.zeros(3, vocab_size)
    forbid_(logits, torch.from_numpy(np.packbits(allowed, axis=1, bitorder="little")))
    known = torch.zeros(3, vocab_size, dtype=torch.bool)
    known[:, :64] = torch.from_numpy(allowed[:, :vocab_size])
    assert (logits.isfinite() == known).all()


def make_decoder(vocab_size):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    injector = LatentInjector(
        "soft_prompt", latent_dim=4, num_prompts=2, width=32, num_layers=2, num_heads=2
    )
    return DocumentDecoder(LlamaForCausalLM(config), injector).eval()


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_refused_tokens_are_replaced_by_the_probabilities_of_the_others(temperature):
    schema = {"type": "integer", "minimum": 3, "maximum": 7777}
    texts = [json.dumps(value) for value in range(3, 7778)]
    tokenizer = train_tokenizer([texts], schema, vocab_size=40)
    end = tokenizer.token_to_id(END)
    constraint = Constraint(json_grammar(schema), tokenizer, end=end)
    decoder = make_decoder(tokenizer.get_vocab_size() + 3)
    with torch.no_grad():  # some refused tokens are likely, others are not
        decoder.language_model.get_output_embeddings().weight *= 15
    count = 4_000
    uniform = torch.rand(count, 8, 2, generator=torch.Generator().manual_seed(1))
    sampling = DocumentSampling(8, end=(end,), temperature=temperature)
    rows = constraint.start(count)
    written = decode_documents(decoder, None, uniform, sampling, rows=rows)

    allowed = torch.from_numpy(constraint.start(1).allowed(np.arange(1)).copy())
    logits = decoder.logits(decoder.transform(decoder.start(None, 1), None, 0)[:, -1]).detach()
    free = (logits / temperature).softmax(1)[0]
    forbid_(logits, allowed)
    expected = (logits / temperature).softmax(1)[0]
    assert (expected > 0.01).sum() > 3
    kept = float(free[expected > 0].sum())
    assert 0.01 < kept < 0.99
    found = torch.bincount(torch.tensor([ids[0] for ids in written]), minlength=len(expected))
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found / count - expected).abs() <= 4 * error + 1e-6).all()
    assert {tokenizer.decode(ids) for ids in written} <= set(texts)


def test_the_layout_for_decoding_changes_no_score():
    decoder = make_decoder(50)
    inputs = torch.randn(3, 4, 32)
    before = decoder.logits(decoder.transform(inputs, None, 0))
    weights = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.lay_out_for_decoding()
    assert not decoder.language_model.get_output_embeddings().weight.is_contiguous()
    torch.testing.assert_close(decoder.logits(decoder.transform(inputs, None, 0)), before)
    for name, value in decoder.state_dict().items():
        assert (value == weights[name]).all()
