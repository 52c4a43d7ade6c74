"""Small decoders over a grammar with every kind of slot."""

import numpy as np
import torch

from difflm_core.codec.fields import CodecOptions
from difflm_core.codec.records import RecordCodec
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.vae.decoder import DecoderSize, RecordDecoder, build_language_model
from difflm_core.vae.injection import LatentInjector
from tests.unit.codec.tables import random_ids

LATENT_DIM = 5
SIZE = DecoderSize(width=16, num_layers=2, num_heads=2)


def small_codec():
    """Digits with idle slots, categories with and without missing, text of several tokens."""
    import pyarrow as pa

    generator = np.random.default_rng(0)
    schema = Schema(
        columns=(
            Column(name="price", kind=ColumnKind.FLOAT, nullable=True),
            Column(name="city", kind=ColumnKind.CATEGORICAL),
            Column(name="note", kind=ColumnKind.TEXT, nullable=True),
            Column(name="count", kind=ColumnKind.INTEGER),
        )
    )
    rows = {
        "price": [None, *np.where(generator.random(99) < 0.3, 0, generator.normal(size=99))],
        "city": generator.choice(["Bern", "Oslo", "Rome"], 100).tolist(),
        "note": [None, "", *["ab"] * 98],
        "count": generator.integers(0, 10**6, 100).tolist(),
    }
    table = pa.Table.from_pydict(rows, schema=schema.arrow_schema)
    options = CodecOptions(digit_base=6, num_digits=3, max_value_tokens=4)
    return RecordCodec.fit(schema, table, options)


def small_decoder(mode="soft_prompt", grammar=None):
    """A decoder with random weights, in eval mode, and its grammar."""
    grammar = grammar or small_codec().grammar
    torch.manual_seed(0)
    injector = LatentInjector(
        mode,
        latent_dim=LATENT_DIM,
        num_prompts=3,
        width=SIZE.width,
        num_layers=SIZE.num_layers,
        num_heads=SIZE.num_heads,
    )
    language_model = build_language_model(grammar, SIZE, injector.num_prompts)
    for parameter in language_model.parameters():  # away from the symmetric start
        torch.nn.init.normal_(parameter, std=0.3)
    return RecordDecoder(language_model, grammar, injector).eval(), grammar


def rows_of(grammar, count, seed=0):
    """Token rows of a grammar, [B, T], int64."""
    return torch.from_numpy(random_ids(grammar, count, np.random.default_rng(seed)))


def latents(count, seed=0):
    """Standard normal latents, [B, D]."""
    return torch.randn(count, LATENT_DIM, generator=torch.Generator().manual_seed(seed))
