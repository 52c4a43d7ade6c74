"""Quality of the synthetic tables: the full path, its ablations, and the real row beside them.

    python benchmarks/quality.py adult --data DATA       runs one table, writes results/adult.json
    python benchmarks/quality.py --report                writes results/quality.md from all of them

Every table runs with the default settings. The full path is generated with five seeds; the
ablations say which half falls short: `posterior` decodes true posteriors of training records (what
the decoder can do), `prior` decodes the Gaussian prior (what a plain VAE would do), `language
model` is the decoder trained alone for as many steps (what the latents must not cost).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console
from tables import TABLES, prepare

from difflm_core.artifacts import Corpus, GeneratorBundle, Latents, SyntheticData, VaeCheckpoint
from difflm_core.config import GenerateConfig, RunConfig, VaeConfig
from difflm_core.config_file import build_config
from difflm_core.device import choose_compute
from difflm_core.evaluation import evaluate
from difflm_core.generation.bundle import load_generator, load_vae
from difflm_core.generation.calibration import calibrate
from difflm_core.generation.even import even_normals
from difflm_core.generation.generator import (
    Generator,
    LatentSource,
    NoLatents,
    PriorLatents,
    SamplingOptions,
)
from difflm_core.latents import LatentBatch
from difflm_core.progress import console_sink, setup_logging
from difflm_core.stage import run_stage
from difflm_core.stages import load_stages
from difflm_core.stages.corpus import load_codec, load_schema, read_split, shard_readers
from difflm_core.stages.evaluate import headline, read_synthetic
from difflm_core.stages.pipeline import run_pipeline
from difflm_core.vae.model import TextVae

RESULTS = Path(__file__).parent / "results"
CONSOLE = Console(stderr=True)
SEEDS = (0, 1, 2, 3, 4)
METRICS = (
    "utility_synthetic",
    "shape_error_percent",
    "trend_error_percent",
    "report_trend_error_percent",
    "two_sample_auc",
)

INTRODUCTION = """# Quality of the synthetic tables

Default settings, `strict` scorer; mean and standard deviation over five generation seeds. Made
by `python benchmarks/quality.py TABLE --data DATA`. Utility: XGBoost trained on synthetic and
tested on real rows, AUC (Beijing: RMSE). The trend error bins numbers by the real column, the
QualityReport of SDMetrics each table by itself
([decision](../../docs/adr/0014-trend-error-with-the-real-bins.md)). Two-sample AUC: XGBoost,
cross-validated; .5 cannot be told from real rows.

*diffusion* is the full path. The other rows say which half falls short: *posterior* decodes
latents of training records, *prior* decodes the Gaussian prior, *language model* is the decoder
trained alone for as many steps. Each is calibrated.
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="tables to run")
    parser.add_argument("--data", type=Path, help="folder with the UCI files, one folder a table")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"), help="run folder")
    parser.add_argument("--report", action="store_true", help="write quality.md")
    parser.add_argument("--no-ablations", action="store_true", help="the full path only")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, to explore")
    options = parser.parse_args()
    setup_logging(CONSOLE)
    RESULTS.mkdir(exist_ok=True)
    for name in options.tables:
        result = run_table(name, options)
        path = RESULTS / f"{name}.json"
        if options.set:
            path = options.output / f"{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result["rows"], indent=1))
    if options.report:
        (RESULTS / "quality.md").write_text(report())


def run_table(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one table."""
    folder = options.output / name
    train, test = prepare(name, options.data, folder / "data")
    data = {"source": str(train), "test_source": str(test), "target": TABLES[name].target}
    values = {"data": data, "evaluation": {"categorical": list(TABLES[name].categorical)}}
    config = build_config({**values, "output": str(folder / "run")}, "quality.py")
    if options.set:
        from difflm_core.config_file import load_config

        explored = load_config(None, options.set)
        config = explored.model_copy(
            update={
                "data": config.data.model_copy(
                    update={"valid_fraction": explored.data.valid_fraction}
                ),
                "evaluation": config.evaluation,
                "output": config.output,
            }
        )
    sinks = [console_sink(CONSOLE)]
    results = run_pipeline(config, sinks=sinks, replace="changed")
    made = {type(result.artifact): result.artifact for result in results}
    stage_seconds = {r.stage: r.artifact.manifest.provenance.duration_seconds for r in results}
    scorer = _Scorer(config, made[Corpus])
    rows: dict[str, list[dict[str, Any]]] = {"diffusion": []}
    for seed in SEEDS:
        synthetic = made[SyntheticData]
        if seed != config.seed:
            synthetic = _generate(made[GeneratorBundle], config, seed, folder)
        rows["diffusion"].append(scorer.score(read_synthetic(synthetic)))
    if not options.no_ablations:
        rows |= _ablations(config, made, scorer, folder)
    vae = made[VaeCheckpoint].manifest.summary
    return {
        "table": name,
        "real": scorer.score(scorer.train),
        "rows": rows,
        "vae": vae,
        "stage_seconds": stage_seconds,
        "total_seconds": round(sum(stage_seconds.values()), 1),
        "threads": torch.get_num_threads(),
    }


class _Scorer:
    """Scores tables of one corpus with the strict scorer."""

    def __init__(self, config: RunConfig, corpus: Corpus) -> None:
        self.schema = load_schema(corpus)
        self.train = read_split(corpus, "train", self.schema)
        self.test = read_split(corpus, "test", self.schema)
        self.valid = read_split(corpus, "valid", self.schema)
        self.categorical = config.evaluation.categorical

    def score(self, synthetic: pa.Table) -> dict[str, Any]:
        result = evaluate(
            synthetic,
            self.train,
            self.test,
            self.schema,
            valid=self.valid,
            categorical=self.categorical,
        )
        return {"rows": synthetic.num_rows, **headline(result.to_dict())}


def _generate(bundle: GeneratorBundle, config: RunConfig, seed: int, folder: Path) -> SyntheticData:
    stage = next(stage for stage in load_stages() if stage.output is SyntheticData)
    inputs: dict[str, Any] = {"generator": bundle}
    cfg: GenerateConfig = config.generation
    uri = str(folder / f"synthetic-{seed}")
    made = run_stage(stage, cfg, inputs, uri, seed=seed, replace="changed")
    assert isinstance(made, SyntheticData)
    return made


def _ablations(
    config: RunConfig, made: dict[Any, Any], scorer: _Scorer, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    compute = choose_compute(config.runtime.device, config.runtime.precision)
    with made[GeneratorBundle].local() as path:
        full = load_generator(path, compute).vae
    alone = _train_alone(config, made[Corpus], folder)
    codec = load_codec(alone)
    with alone.local() as path:
        language_model = load_vae(path, codec, compute)
    sources: dict[str, tuple[TextVae, LatentSource]] = {
        "posterior": (full, _posterior_latents(made[Latents])),
        "prior": (full, PriorLatents(config.vae.latent_dim)),
        "language model": (language_model, NoLatents()),
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (vae, latents) in sources.items():
        # Each row is calibrated for its own latents, as the full path is.
        bias_V = calibrate(vae, codec.grammar, codec.token_share, latents, seed=config.seed)
        generator = Generator(vae, codec, latents, bias_V)
        tables = [
            pa.Table.from_batches(
                generator.batches(scorer.train.num_rows, SamplingOptions(seed=seed))
            )
            for seed in SEEDS
        ]
        rows[name] = [scorer.score(table) for table in tables]
    return rows


def _posterior_latents(latents: Latents) -> LatentSource:
    parts = [LatentBatch.from_arrow(read()) for _, read in shard_readers(latents, "train")]
    mean = torch.cat([part.mean for part in parts])
    std = torch.cat([part.std for part in parts])

    def sample(count: int, *, seed: int, first: int) -> torch.Tensor:
        # Each record about as often as any other, as the other sources are even, too.
        order = torch.randperm(len(mean), generator=torch.Generator().manual_seed(seed))
        rows = order[torch.arange(first, first + count) % len(mean)]
        noise = even_normals(count, mean.shape[1], seed=seed, first=first)
        return LatentBatch(mean[rows], std[rows]).sample(noise)

    return sample


def _train_alone(config: RunConfig, corpus: Corpus, folder: Path) -> VaeCheckpoint:
    """The decoder trained without latents for as many steps."""
    stage = next(stage for stage in load_stages() if stage.output is VaeCheckpoint)
    cfg: VaeConfig = config.vae.model_copy(update={"use_latents": False})
    made = run_stage(
        stage,
        cfg,
        {"corpus": corpus},
        str(folder / "language-model"),
        replace="changed",
        sinks=[console_sink(CONSOLE)],
    )
    assert isinstance(made, VaeCheckpoint)
    return made


def report() -> str:
    """All results as Markdown."""
    lines = [
        INTRODUCTION,
        "| table | row | utility | shape error % | trend error % | (QualityReport) "
        "| two-sample AUC | exact copies % (holdout) |",
        "|-|-|-|-|-|-|-|-|",
    ]
    details = [
        "",
        "Seconds of one run, all six stages; held-out negative log-likelihood and KL divergence in",
        "nats per record.",
        "",
        "| table | run s | cores | reconstruction | KL | active dims | language model alone |",
        "|-|-|-|-|-|-|-|",
    ]
    for name in TABLES:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        real = result["real"]["utility_real"]
        lines.append(f"| {name} | real | {real:.4f} | | | | | |")
        for row, scores in result["rows"].items():
            cells = [_spread([score[metric] for score in scores]) for metric in METRICS]
            copies = statistics.mean(score["exact_copy_rate"] for score in scores) * 100
            holdout = scores[0]["holdout_copy_rate"] * 100
            lines.append(f"| | {row} | {' | '.join(cells)} | {copies:.2f} ({holdout:.2f}) |")
        vae = result["vae"]
        details.append(
            f"| {name} | {result['total_seconds']:.0f} | {result['threads']} | "
            f"{vae['reconstruction']:.2f} | "
            f"{vae['kl']:.2f} | {vae['active_dims']} | {vae['language_model']:.2f} |"
        )
    return "\n".join([*lines, *details]) + "\n"


def _spread(values: list[float]) -> str:
    digits = 4 if max(values) < 1 else 2
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
