"""What real, generated and mixed code teach a small language model that starts from nothing.

    python benchmarks/code_utility.py runs/code --problems mbpp.jsonl [--write]

A small Llama with random weights is trained on the real training code of a finished run, on its
synthetic code, and on both, with equally many tokens, for several seeds. So small a model solves
hardly any problem; the bits per character of the problems' own solutions say what it has learned.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from difflm_core.cli.corpora import read_corpus
from difflm_core.data.schema import DataKind
from difflm_core.device import choose_compute
from difflm_core.downstream.code_model import TuningOptions, WritingOptions
from difflm_core.downstream.code_utility import (
    CorpusUtility,
    UtilityOptions,
    measure_code_utility,
)
from difflm_core.evaluation.execution.problems import read_problems
from difflm_core.progress import Progress, console_sink
from difflm_core.vae.pretrained import PretrainedSpec

RESULTS = Path(__file__).parent / "results" / "code_utility.md"
VOCAB_SIZE, WIDTH, LAYERS, HEADS = 2048, 192, 6, 6


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run with data.kind code")
    parser.add_argument("--problems", required=True, help="HumanEval or MBPP, with or without +")
    parser.add_argument("--max-tokens", type=int, default=1_000_000, help="read by each model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="also write the results")
    options = parser.parse_args()
    real = [
        text
        for part in sorted((options.run / "corpus" / "train").glob("part-*.parquet"))
        for text in pq.read_table(part).column(0).to_pylist()
    ]
    synthetic = read_corpus(str(options.run), DataKind.CODE)
    problems = read_problems(options.problems)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), real)
        results = measure_code_utility(
            problems,
            real,
            synthetic,
            PretrainedSpec(folder, training="full"),
            choose_compute("cpu"),
            UtilityOptions(
                TuningOptions(options.max_tokens, lr=2e-3),
                WritingOptions(num_samples=1, temperature=0.2, max_new_tokens=128),
                num_seeds=options.seeds,
            ),
            progress=Progress([console_sink(Console(stderr=True))]),
        )
    minutes = (time.monotonic() - begun) / 60
    text = "\n".join(table(results, options.seeds))
    print(text)
    if options.write:
        usage = (__doc__ or "").strip()
        name = Path(options.problems).name
        about = (
            f"{name}: {len(problems):,} problems; {options.max_tokens:,} tokens each; "
            f"{options.seeds} seeds; {minutes:.0f} minutes on two cores."
        )
        RESULTS.write_text(f"# Utility of code\n\n{usage}\n\n{about}\n\n{text}\n", encoding="utf-8")


def make_model(folder: Path, texts: list[str]) -> None:
    """Save a small Llama with random weights, and a tokenizer of these texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=10,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


def table(results: list[CorpusUtility], seeds: int) -> list[str]:
    """The results as rows of a table."""
    lines = ["| trained on | documents | bits per character of solutions | pass@1 |", "|-|-|-|-|"]
    for result in results:
        spread = f" ± {result.bits_deviation:.3f}" if seeds > 1 else ""
        score = result.execution.scores[0]
        lines.append(
            f"| {'nothing' if result.corpus == 'none' else result.corpus} "
            f"| {result.num_documents:,} | {result.mean_bits:.3f}{spread} "
            f"| {score.value:.4f} ({score.low:.4f} to {score.high:.4f}) |"
        )
    return lines


if __name__ == "__main__":
    main()
