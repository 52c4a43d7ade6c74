"""Speed of writing documents: batches with cached keys against one sample at a time; the grammar.

    python benchmarks/text_generation.py

One and the same small Llama, trained for a moment on tool descriptions, writes documents in three
ways, by turns and on one thread: one sample at a time, the whole text fed again for every token, as
the published code of DiffLM does; in batches with cached keys and values (`decode_documents`); and
so within the grammar of a JSON Schema. All write the same number of tokens: the model has only read
documents that are longer.

Times are processor time, so that other programs on the machine disturb them little.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from difflm_core.codec.constraint import ConstrainedRows, Constraint, json_grammar
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.document_profile import DocumentProfile
from difflm_core.data.documents import open_documents
from difflm_core.data.json_schema import canonical_document, schema_of
from difflm_core.data.schema import DataKind
from difflm_core.generation.document_decode import DocumentSampling, decode_documents, forbid_
from difflm_core.vae.attention import TIME_MAJOR
from difflm_core.vae.document_decoder import DocumentDecoder
from difflm_core.vae.document_rows import DocumentRows
from difflm_core.vae.injection import LatentInjector

SOURCE = Path(__file__).parents[1] / "examples/data/tools.jsonl.gz"
NUM_LAYERS, WIDTH, NUM_HEADS, VOCAB_SIZE = 4, 256, 4, 4096
LATENT_DIM, NUM_PROMPTS = 32, 8
BATCH, NUM_TOKENS = 64, 128
ROUNDS = 3
# Samples of the way that takes one at a time; as many as a batch has would take minutes.
NUM_SINGLE = 2
# No token has this id, so nothing ends before its last token.
NEVER = VOCAB_SIZE
TRAINING_STEPS, TRAINING_ROWS, LEARNING_RATE = 300, 16, 1e-3
SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
MASK_VOCAB_SIZES = (4_096, 32_768, 131_072)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    corpus = Corpus.read()
    print(
        f"{processor()}, {os.cpu_count()} cores, one thread; torch {torch.__version__}. Llama of "
        f"{NUM_LAYERS} layers, width {WIDTH}, {VOCAB_SIZE:,} tokens; {NUM_TOKENS} tokens a "
        f"document, {rounds} rounds by turns, processor time.\n"
    )
    report_ways(corpus, rounds)
    report_parts(corpus, rounds)


@dataclass(frozen=True)
class Corpus:
    """Real documents, and what their grammar and tokens are made from.

    Attributes:
        texts: Canonical documents.
        json_schema: Inferred from all of them.
        tokenizer: Trained on them.
    """

    texts: Sequence[str]
    json_schema: dict[str, Any]
    tokenizer: Tokenizer

    @classmethod
    def read(cls) -> Corpus:
        """Read the tool descriptions of the examples."""
        source = open_documents(str(SOURCE), DataKind.JSON)
        texts = [text for batch in source.batches() for text in batch.column(0).to_pylist()]
        profile = DocumentProfile(DataKind.JSON)
        profile.add_texts(texts)
        schema = schema_of(profile.root)
        texts = [canonical_document(json.loads(text), schema) for text in texts]
        return cls(texts, schema, train_tokenizer([texts], schema, vocab_size=VOCAB_SIZE))

    def ids_LT(self) -> npt.NDArray[np.int64]:
        """First tokens of the documents that are long enough, shape [L, T]."""
        encoded = (self.tokenizer.encode(text, add_special_tokens=False).ids for text in self.texts)
        return np.array([ids[:NUM_TOKENS] for ids in encoded if len(ids) > NUM_TOKENS])

    def constraint(self, vocab_size: int = VOCAB_SIZE) -> Constraint:
        """The grammar, for a vocabulary of this size: pieces of the documents fill it up.

        They are in no merge, so documents are cut into the same tokens.
        """
        spelled = json.loads(self.tokenizer.to_str())
        vocab: dict[str, int] = spelled["model"]["vocab"]
        for piece in pieces(self.texts):
            if len(vocab) >= vocab_size:
                break
            vocab.setdefault(piece, len(vocab))
        tokenizer = Tokenizer.from_str(json.dumps(spelled))
        if tokenizer.get_vocab_size() != vocab_size:
            raise SystemExit(f"{tokenizer.get_vocab_size()} tokens, expected {vocab_size}")
        return Constraint(json_grammar(self.json_schema), tokenizer, end=tokenizer.token_to_id(END))


def pieces(texts: Sequence[str]) -> list[str]:
    """Distinct pieces of up to twelve letters of documents, shortest first, as a tokenizer has."""
    found: set[str] = set()
    for word in {word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)}:
        for start in range(len(word)):
            last = min(start + 12, len(word))
            found.update(word[start:stop] for stop in range(start + 3, last + 1))
    # In the byte-level alphabet a space is another letter; the others stand for themselves.
    return sorted((piece.replace(" ", SPACE) for piece in found), key=lambda p: (len(p), p))


def make_decoder() -> DocumentDecoder:
    """A small Llama with random weights, and the injection of latents."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        max_position_embeddings=NUM_PROMPTS + NUM_TOKENS,
    )
    injector = LatentInjector(
        "soft_prompt",
        latent_dim=LATENT_DIM,
        num_prompts=NUM_PROMPTS,
        width=WIDTH,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
    )
    return DocumentDecoder(LlamaForCausalLM(config), injector)


def train(decoder: DocumentDecoder, ids_LT: npt.NDArray[np.int64]) -> float:
    """Train on documents with latents of noise; the last loss, in nats per token."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE)
    loss = torch.tensor(0.0)
    for _ in range(TRAINING_STEPS):
        index_B = torch.randint(len(ids_LT), (TRAINING_ROWS,), generator=random)
        z_BD = torch.randn(TRAINING_ROWS, LATENT_DIM, generator=random)
        rows = DocumentRows(torch.from_numpy(ids_LT)[index_B])
        loss = decoder(rows, z_BD).mean() / NUM_TOKENS
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    return loss.item()


class CountedRows:
    """Constrained documents that count the tokens that were refused."""

    def __init__(self, rows: ConstrainedRows) -> None:
        """Count those of `rows`."""
        self._rows, self.num_refused = rows, 0

    def try_accept(self, ids_B: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """As of the documents themselves."""
        accepted_B = self._rows.try_accept(ids_B)
        self.num_refused += int((~accepted_B).sum())
        return accepted_B

    def __getattr__(self, name: str) -> Any:
        """All else that the documents have."""
        return getattr(self._rows, name)


def write_batch(decoder: DocumentDecoder, rows: Any = None) -> None:
    """Write a batch of documents as generation does."""
    random = torch.Generator().manual_seed(0)
    z_BD = torch.randn(BATCH, LATENT_DIM, generator=random)
    uniform_BT2 = torch.rand(BATCH, NUM_TOKENS, 2, generator=random)
    sampling = DocumentSampling(NUM_TOKENS, end=(NEVER,))
    written = decode_documents(decoder, z_BD, uniform_BT2, sampling, rows=rows)
    if [len(ids) for ids in written] != [NUM_TOKENS] * BATCH:
        raise SystemExit("a document ended early")


@torch.inference_mode()
def write_one_by_one(decoder: DocumentDecoder) -> None:
    """Write documents one at a time; every token reads the whole text so far again."""
    random = torch.Generator().manual_seed(0)
    for _ in range(NUM_SINGLE):
        z_BD = torch.randn(1, LATENT_DIM, generator=random)
        prompts_BPE = decoder.start(z_BD, 1)
        ids_BT = torch.empty(1, 0, dtype=torch.int64)
        for _ in range(NUM_TOKENS):
            inputs_BNE = torch.cat([prompts_BPE, decoder.embed(ids_BT, z_BD)], dim=1)
            logits_BTV = decoder.language_model(inputs_embeds=inputs_BNE, use_cache=False).logits
            chances_BV = logits_BTV[:, -1].softmax(dim=1)
            drawn_B1 = torch.multinomial(chances_BV, 1, generator=random)
            ids_BT = torch.cat([ids_BT, drawn_B1], dim=1)


def report_ways(corpus: Corpus, rounds: int) -> None:
    """Tokens and documents per second of the three ways."""
    constraint = corpus.constraint()
    decoder = make_decoder()
    begun, ids_LT = time.perf_counter(), corpus.ids_LT()
    loss = train(decoder, ids_LT)
    print(
        f"Trained on {len(ids_LT):,} documents for {TRAINING_STEPS} steps of {TRAINING_ROWS}, "
        f"{time.perf_counter() - begun:.0f} s: {loss:.2f} nats per token.\n"
    )
    torch.set_num_threads(1)
    decoder.eval()
    # The same weights, once as transformers runs them by itself and once as the generator does.
    usual = copy.deepcopy(decoder)
    usual.language_model.set_attn_implementation("sdpa")
    decoder.language_model.set_attn_implementation(TIME_MAJOR)
    decoder.lay_out_for_decoding()

    refused: list[float] = []

    def one_by_one() -> None:
        write_one_by_one(usual)

    def batch() -> None:
        write_batch(decoder)

    def constrained() -> None:
        rows = CountedRows(constraint.start(BATCH))
        write_batch(decoder, rows)
        refused.append(100 * rows.num_refused / (BATCH * NUM_TOKENS))

    ways = {
        "one at a time, no cache": (one_by_one, NUM_SINGLE),
        f"batch of {BATCH}, cached": (batch, BATCH),
        f"batch of {BATCH}, cached, JSON Schema": (constrained, BATCH),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run, _ in ways.values():
        run()
    for _ in range(rounds):
        for name, (run, _) in ways.items():
            seconds[name].append(timed(run))
    first, plain, limited = (
        [value / documents for value in seconds[name]] for name, (_, documents) in ways.items()
    )
    print("| | tokens/s | spread | documents/s | times the first |\n|-|-|-|-|-|")
    for name, each in zip(ways, (first, plain, limited), strict=True):
        rates = [NUM_TOKENS / value for value in each]
        mean = statistics.mean(rates)
        ratio = mean * statistics.mean(first) / NUM_TOKENS
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        print(f"| {name} | {mean:,.0f} | {spread} | {mean / NUM_TOKENS:,.1f} | {ratio:,.1f} |")
    overheads = [100 * (b / a - 1) for a, b in zip(plain, limited, strict=True)]
    print(
        f"\nThe grammar adds {statistics.mean(overheads):.1f} % ({min(overheads):.1f} to "
        f"{max(overheads):.1f}) to a batch; it refuses {refused[0]:.1f} % of the tokens.\n",
        flush=True,
    )


def report_parts(corpus: Corpus, rounds: int) -> None:
    """What the grammar costs a token, for vocabularies of several sizes."""
    print("| vocabulary | trying us | spread | masking us | spread |\n|-|-|-|-|-|")
    ids_BT = corpus.ids_LT()[:BATCH]
    every_B = np.arange(BATCH)
    for vocab_size in MASK_VOCAB_SIZES:
        constraint = corpus.constraint(vocab_size)
        logits_BV = torch.zeros(BATCH, vocab_size)
        parts: list[npt.NDArray[np.float64]] = []
        for _ in range(rounds + 1):
            rows, spent = constraint.start(BATCH), np.zeros(2)
            for ids_B in ids_BT.T:
                begun = time.process_time()
                allowed_BW = rows.allowed(every_B)
                forbid_(logits_BV, torch.from_numpy(allowed_BW))
                masked = time.process_time()
                if not rows.try_accept(ids_B).all():
                    raise SystemExit("the grammar forbids a token of a real document")
                spent += time.process_time() - masked, masked - begun
            parts.append(spent / ids_BT.size * 1e6)
        # The first round warms up.
        trying, masking = np.array(parts[1:]).T
        print(
            f"| {vocab_size:,} | {trying.mean():.1f} | {trying.min():.1f} to {trying.max():.1f} | "
            f"{masking.mean():.1f} | {masking.min():.1f} to {masking.max():.1f} |",
            flush=True,
        )
    print("\nMicroseconds for each token; all are tried, those that are refused are masked.")


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timed(run: Callable[[], object]) -> float:
    """Processor seconds that `run` takes."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
