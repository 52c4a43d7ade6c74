"""Speed of writing documents: batched with a cache, against the published reference's way.

The reference writes one document at a time and feeds the whole prefix again for every token. Both
sides use one and the same randomly initialised Llama here, and write equally many tokens. Then the
cost of a JSON Schema: the same decoding with and without its masks, step by step.

    python benchmarks/text_generation.py            # prints tables; a few minutes on two cores
    python benchmarks/text_generation.py --write    # also benchmarks/results/text_generation.md
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from difflm_core.codec.constraint import Constraint
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.document_profile import DocumentProfile
from difflm_core.data.documents import open_documents
from difflm_core.data.json_schema import canonical_document, schema_of
from difflm_core.data.schema import DataKind
from difflm_core.generation.document_decode import DocumentSampling, decode_documents, forbid
from difflm_core.vae.attention import TIME_MAJOR
from difflm_core.vae.document_decoder import DocumentDecoder
from difflm_core.vae.injection import LatentInjector

RESULTS = Path(__file__).parent / "results" / "text_generation.md"
TOOLS = Path(__file__).parents[1] / "examples" / "data" / "tools.jsonl.gz"
LATENT_DIM, NUM_PROMPTS, BATCH, TOKENS = 32, 4, 64, 160
REPETITIONS = 3


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="Write the results beside this file.")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer, schema, texts = corpus()
    decoder = make_decoder(tokenizer.get_vocab_size())
    lines = [
        "# Speed of writing documents",
        "",
        f"A randomly initialised Llama of 4 layers, width 256 and {decoder.vocab_size:,} tokens "
        f"({sum(p.numel() for p in decoder.language_model.parameters()) / 1e6:.1f} M parameters), "
        f"float32, {torch.get_num_threads()} threads; documents of {TOKENS} tokens; mean and "
        f"deviation of {REPETITIONS} repetitions in one run. {machine()}",
        "",
        "## Against one document at a time, the whole prefix fed again for every token",
        "",
        "| way | tokens/s | documents/s | times as fast |",
        "|-|-|-|-|",
    ]
    reference = repeated(lambda: one_by_one(decoder), 1)
    base = statistics.mean(reference)
    lines.append(row("the reference's way", reference, 1.0))
    for batch in (1, 8, BATCH, 256):
        found = repeated(lambda batch=batch: batched(decoder, batch), batch)
        lines.append(row(f"ours, batch {batch}", found, statistics.mean(found) / base))
    lines += [
        "",
        "## What a JSON Schema costs",
        "",
        f"The schema inferred from {len(texts):,} tool descriptions, {BATCH} documents at a time, "
        "each forced along a real one, so that both sides take the same steps.",
        "",
        "| | ms a step | share of a step |",
        "|-|-|-|",
        *constrained(decoder, tokenizer, schema, texts),
    ]
    print("\n".join(lines))
    if arguments.write:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def corpus() -> tuple:
    """Tokenizer, schema and canonical texts of tool descriptions."""
    profile = DocumentProfile(DataKind.JSON)
    raw = [
        text
        for batch in open_documents(str(TOOLS), DataKind.JSON).batches()
        for text in batch.column(0).to_pylist()
    ]
    profile.add_texts(raw)
    schema = schema_of(profile.root)
    texts = [canonical_document(json.loads(text), schema) for text in raw]
    return train_tokenizer([texts], schema, vocab_size=4096), schema, texts


def make_decoder(vocab_size: int) -> DocumentDecoder:
    """The model of both sides."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    language_model = LlamaForCausalLM(config)
    language_model.set_attn_implementation(TIME_MAJOR)
    injector = LatentInjector(
        "soft_prompt",
        latent_dim=LATENT_DIM,
        num_prompts=NUM_PROMPTS,
        width=256,
        num_layers=4,
        num_heads=8,
    )
    return DocumentDecoder(language_model, injector, prefix=(0,)).eval()


@torch.inference_mode()
def one_by_one(decoder: DocumentDecoder) -> float:
    """Seconds for a document, written as the reference does."""
    z = torch.randn(1, LATENT_DIM)
    ids: list[int] = []
    start = time.perf_counter()
    before = decoder.start(z, 1)
    for _ in range(TOKENS):
        inputs = before
        if ids:
            tokens = decoder.embed(torch.tensor([ids]), z)
            inputs = torch.cat([before, tokens], dim=1)
        hidden = decoder.transform(inputs, None, 0)
        logits = decoder.logits(hidden)[0, -1]  # of the whole prefix, as a forward pass gives them
        ids.append(int(torch.multinomial(logits.softmax(dim=-1), 1)))
    return time.perf_counter() - start


def batched(decoder: DocumentDecoder, batch: int) -> float:
    """Seconds for a batch of documents, written our way."""
    uniform = torch.rand(batch, TOKENS)
    sampling = DocumentSampling(max_tokens=TOKENS, end=(-1,))  # none ends early
    start = time.perf_counter()
    written = decode_documents(decoder, torch.randn(batch, LATENT_DIM), uniform, sampling)
    seconds = time.perf_counter() - start
    if sum(map(len, written)) != batch * TOKENS:
        raise AssertionError("every document has the same length")
    return seconds


def repeated(measure: Callable[[], float], batch: int) -> list[float]:
    """Tokens per second of each repetition; the first one warms up."""
    measure()
    return [batch * TOKENS / measure() for _ in range(REPETITIONS)]


def row(name: str, found: list[float], times: float) -> str:
    """A line of the table."""
    mean, spread = statistics.mean(found), statistics.stdev(found)
    return f"| {name} | {mean:,.0f} ± {spread:,.0f} | {mean / TOKENS:,.1f} | {times:,.0f} |"


@torch.inference_mode()
def constrained(decoder: DocumentDecoder, tokenizer, schema, texts: list[str]) -> list[str]:
    """Lines of the table of what masks cost beside everything else in a step."""
    constraint = Constraint(schema, tokenizer, end=tokenizer.token_to_id(END))
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    chosen = [ids[:TOKENS] for ids in encoded if len(ids) >= TOKENS][:BATCH]
    ids_BT = np.array(chosen, dtype=np.int64)
    steps: list[float] = []
    masks: list[float] = []
    for _ in range(REPETITIONS + 1):
        rows = constraint.start(len(ids_BT))
        start = time.perf_counter()
        spent = 0.0
        for step in range(TOKENS):
            begin = time.perf_counter()
            allowed = rows.allowed()
            forbid(torch.zeros(len(ids_BT), decoder.vocab_size), allowed)
            rows.accept(ids_BT[:, step])
            spent += time.perf_counter() - begin
        masks.append(spent / TOKENS)
        del start
        steps.append(batched(decoder, len(ids_BT)) / TOKENS)
    mask, step = statistics.mean(masks[1:]), statistics.mean(steps[1:])
    return [
        f"| a step without a schema | {1e3 * step:.2f} ± {1e3 * statistics.stdev(steps[1:]):.2f} | |",
        f"| masks: made, applied, advanced | {1e3 * mask:.2f} ± "
        f"{1e3 * statistics.stdev(masks[1:]):.2f} | {mask / step:.1%} |",
    ]


def machine() -> str:
    """What it ran on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(": ")[2] if models else name
    return f"{name}; torch {torch.__version__.partition('+')[0]}."


if __name__ == "__main__":
    main()
