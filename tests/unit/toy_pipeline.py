"""Six small stages with the names, sections and artifacts of the real ones, and no learning."""

import json
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from difflm_core import storage
from difflm_core.artifacts import (
    Corpus,
    EvaluationReport,
    GeneratorBundle,
    Latents,
    SyntheticData,
    VaeCheckpoint,
)
from difflm_core.config import (
    DiffusionConfig,
    EvaluateConfig,
    GenerateConfig,
    LatentsConfig,
    SerializeConfig,
    VaeConfig,
)
from difflm_core.errors import DataError
from difflm_core.stage import Stage, StageContext


def _read(artifact, name):
    return json.loads(storage.read_text(artifact.path(name)))


def _disturb(name):
    """Be stopped here, as the environment says."""
    if os.environ.get("TOY_STOP") == name:
        raise KeyboardInterrupt
    if os.environ.get("TOY_KILL") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def serialize(ctx: StageContext, cfg: SerializeConfig) -> Corpus:
    """Read the records."""
    if not Path(cfg.data.source).exists():
        raise DataError(f"{cfg.data.source}: there is no such file.")
    _disturb("serialize")
    lines = storage.read_text(cfg.data.source).splitlines()
    ctx.output.write_json("records.json", {"lines": lines, "base": cfg.codec.digit_base})
    return ctx.finish(Corpus, num_rows=len(lines))


def train_vae(ctx: StageContext, cfg: VaeConfig, corpus: Corpus) -> VaeCheckpoint:
    """Train for three steps, with a checkpoint after each."""
    step = 0
    if ctx.output.has("work/step.json"):
        with ctx.output.read("work/step.json") as path:
            step = json.loads(path.read_text())
    with ctx.progress.track("Training", total=3, unit="steps", initial=step) as bar:
        while step < 3:
            step += 1
            ctx.output.write_json("work/step.json", step)
            bar.advance(1, loss=1 / step)
            if step == 2:
                _disturb("train-vae")
    ctx.output.write_json("weights.json", {"step": step, "seed": ctx.seed})
    return ctx.finish(VaeCheckpoint, steps=step)


def extract_latents(
    ctx: StageContext, cfg: LatentsConfig, corpus: Corpus, vae: VaeCheckpoint
) -> Latents:
    """Count the characters of each record."""
    _disturb("extract-latents")
    ctx.output.write_json("latents.json", [len(x) for x in _read(corpus, "records.json")["lines"]])
    return ctx.finish(Latents)


def train_diffusion(
    ctx: StageContext, cfg: DiffusionConfig, latents: Latents, vae: VaeCheckpoint
) -> GeneratorBundle:
    """Average the latents."""
    _disturb("train-diffusion")
    lengths = _read(latents, "latents.json")
    ctx.output.write_json("model.json", {"rows": len(lengths), "batch": cfg.batch_rows})
    return ctx.finish(GeneratorBundle)


def generate(ctx: StageContext, cfg: GenerateConfig, generator: GeneratorBundle) -> SyntheticData:
    """Make records."""
    _disturb("generate")
    num_rows = cfg.num_rows or _read(generator, "model.json")["rows"]
    with ctx.output.file("records.parquet") as path:
        pq.write_table(pa.table({"x": list(range(ctx.seed, ctx.seed + num_rows))}), path)
    return ctx.finish(SyntheticData, num_rows=num_rows)


def evaluate(
    ctx: StageContext, cfg: EvaluateConfig, corpus: Corpus, synthetic: SyntheticData
) -> EvaluationReport:
    """Compare the number of rows."""
    _disturb("evaluate")
    ratio = synthetic.manifest.summary["num_rows"] / corpus.manifest.summary["num_rows"]
    ctx.output.write_json("report.json", {"ratio": ratio})
    with ctx.output.file("report.html") as path:
        path.write_text("<p>report</p>")
    return ctx.finish(EvaluationReport, ratio=ratio, rows=synthetic.manifest.summary["num_rows"])


TOY_STAGES = (
    Stage(serialize, sources=lambda cfg: [cfg.data.source]),
    Stage(train_vae),
    Stage(extract_latents),
    Stage(train_diffusion),
    Stage(generate),
    Stage(evaluate),
)
