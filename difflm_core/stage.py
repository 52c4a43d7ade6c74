"""A stage: defined once by a function, run by `run_stage` in every place.

    def train_diffusion(
        ctx: StageContext, cfg: DiffusionConfig, latents: Latents, vae: VaeCheckpoint
    ) -> GeneratorBundle: ...

    STAGE = Stage(train_diffusion, version=1)

Name, configuration, inputs and kind of output come from the signature. `run_stage` alone checks
inputs, reuses finished output, resumes half-finished output, refuses output of another
configuration, runs the function and commits.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import time
import typing
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from difflm_core import provenance, storage
from difflm_core.artifacts import (
    CONFIG_NAME,
    MANIFEST_NAME,
    METRICS_NAME,
    STARTED_NAME,
    Artifact,
    ArtifactWriter,
    InputEntry,
    Manifest,
    Provenance,
    content_hash,
)
from difflm_core.config import RunConfig, RuntimeConfig, Section
from difflm_core.config_file import to_yaml
from difflm_core.errors import DiffLMError, StageError
from difflm_core.outputs import OutputPlan, Replace, discard_output, locked_output, plan_output
from difflm_core.parallel import Launcher, LocalLauncher, set_threads
from difflm_core.progress import JsonLines, Progress, Sink, Tally
from difflm_core.recipe import fingerprint, source_hashes
from difflm_core.tensorboard import require_tensorboard, tensorboard_sinks
from difflm_core.usage import Meter

_LOGGER = logging.getLogger("difflm.stage")
ArtifactT = TypeVar("ArtifactT", bound=Artifact)


class Stage:
    """A step of the pipeline, described by the signature of its function.

    Attributes:
        function: `verb_noun(ctx, cfg, **inputs) -> output`.
        version: raise it whenever the same configuration and inputs would give other content.
        name: the function's name with dashes, as on the command line.
        config_type: type of `cfg`, a section of the configuration.
        inputs: name and kind of each input artifact.
        output: kind of the artifact it makes.
        summary: first line of the function's docstring.
    """

    def __init__(
        self,
        function: Callable[..., Artifact],
        version: int = 1,
        sources: Callable[[Any], Sequence[str]] | None = None,
    ) -> None:
        """Describe a stage.

        Args:
            function: what it does.
            version: version of what it does.
            sources: lists, from `cfg`, the paths, globs or URIs that it reads beside its input
                artifacts; their contents join the fingerprint.
        """
        self.function = function
        self.version = version
        self.sources = sources
        self.name = function.__name__.replace("_", "-")
        self.summary = (inspect.getdoc(function) or "").partition("\n")[0]
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        if names[:2] != ["ctx", "cfg"]:
            raise TypeError(f"{function.__name__}: the first parameters must be ctx and cfg")
        self.config_type: type[Section] = hints["cfg"]
        self.output: type[Artifact] = hints["return"]
        self.inputs: dict[str, type[Artifact]] = {name: hints[name] for name in names[2:]}

    def argv(self, config: str, inputs: Mapping[str, str], output: str) -> list[str]:
        """Arguments of the command line that runs this stage, wherever it runs."""
        argv = [self.name, "--config", config]
        for name in self.inputs:
            argv += [flag(name), inputs[name]]
        return [*argv, "--output", output]

    def __repr__(self) -> str:
        return f"Stage({self.name}, version={self.version})"


def flag(name: str) -> str:
    """Command-line flag of an input."""
    return f"--{name.replace('_', '-')}"


@dataclass
class StageContext:
    """What a stage's function works with.

    Attributes:
        output: writes the payload.
        launcher: spreads the work.
        progress: takes reports and events.
        seed: seed of the run; derive every generator from it and a global index.
        runtime: workers, threads and device.
        notes: what `note` was given.
    """

    output: ArtifactWriter
    launcher: Launcher
    progress: Progress
    seed: int
    runtime: RuntimeConfig
    _finish: Callable[[type[Artifact], dict[str, Any]], Manifest] = field(repr=False)
    notes: dict[str, Any] = field(default_factory=dict[str, Any], init=False, repr=False)

    def note(self, **values: Any) -> None:
        """Add values (JSON) to the event that closes the stage's metrics.jsonl."""
        self.notes.update(values)

    def finish(self, kind: type[ArtifactT], **summary: Any) -> ArtifactT:
        """Describe the finished payload; the last statement of a stage is `return ctx.finish(...)`.

        Args:
            kind: kind of the artifact.
            summary: reproducible headline values (JSON) for the manifest, such as `num_rows`.
        """
        return kind(self.output.uri, self._finish(kind, summary))


def make_recipe(
    stage: Stage, cfg: Section, inputs: Mapping[str, Artifact], seed: int
) -> dict[str, Any]:
    """Collect what decides the content of a stage's output, as JSON values."""
    values = cfg.fingerprint_values()
    section = RunConfig.section_name(stage.config_type)
    sources = stage.sources(cfg) if stage.sources else ()
    return {
        "stage": stage.name,
        "version": stage.version,
        "config": {section: values} if section else values,
        "seed": seed,
        "inputs": {name: artifact.manifest.content_hash for name, artifact in inputs.items()},
        "sources": source_hashes(sources),
    }


def plan_stage(
    stage: Stage, recipe: Mapping[str, Any], output_uri: str, replace: Replace = "never"
) -> OutputPlan:
    """Decide what to do with an output directory; see `outputs.plan_output`."""
    return plan_output(stage.name, stage.output.kind(), recipe, output_uri, replace)


def open_inputs(
    stage: Stage, inputs: Mapping[str, str | Artifact], verify: bool = True
) -> dict[str, Artifact]:
    """Open the input artifacts of a stage, in the order of its signature.

    Raises:
        StageError: an input is not given, or one too many is.
        ArtifactError: an input is missing, unfinished, of another kind or format, or damaged.
    """
    missing = [name for name in stage.inputs if name not in inputs]
    unknown = [name for name in inputs if name not in stage.inputs]
    if missing or unknown:
        expected = ", ".join(f"{name} ({kind.kind()})" for name, kind in stage.inputs.items())
        found = ", ".join(inputs) or "none"
        raise StageError(f"{stage.name}: expected the inputs {expected or 'none'}; found {found}.")
    opened: dict[str, Artifact] = {}
    for name, kind in stage.inputs.items():
        given = inputs[name]
        uri = given.uri if isinstance(given, Artifact) else given
        opened[name] = kind.open(uri, verify=verify)
    return opened


def run_stage(
    stage: Stage,
    cfg: Section,
    inputs: Mapping[str, str | Artifact],
    output_uri: str,
    launcher: Launcher | None = None,
    *,
    seed: int = 0,
    runtime: RuntimeConfig | None = None,
    replace: Replace = "never",
    sinks: Sequence[Sink] = (),
) -> Artifact:
    """Run a stage, or reuse what it has made.

    Args:
        stage: what to run.
        cfg: its section of the configuration.
        inputs: URI (or artifact) of each input, by name.
        output_uri: directory of the output.
        launcher: where the work runs; this process by default.
        seed: seed of the run.
        runtime: workers, threads, device; no part of the fingerprint.
        replace: when an earlier output of this stage is replaced instead of reused or refused.
        sinks: where progress goes, beside the output's metrics.jsonl and what the launcher and
            `runtime` name.

    Returns:
        The complete artifact.

    Raises:
        StageError: the output folder holds something else or was made with other settings, or the
            stage could not finish.
        ArtifactError: an input, or the output that would be reused, is damaged or unfinished.
        ConfigError: `runtime.tensorboard` is set, and curves cannot be written.
    """
    runtime = runtime or RuntimeConfig()
    require_tensorboard(runtime.tensorboard, output_uri)
    opened = open_inputs(stage, inputs, verify=False)
    recipe = make_recipe(stage, cfg, opened, seed)
    plan = plan_stage(stage, recipe, output_uri, replace)
    writer = ArtifactWriter(output_uri)
    if plan.status == "reuse":
        artifact = stage.output.open(output_uri, verify=True)
        writer.clear_leftovers()
        _LOGGER.info("%s: finished before, reused from %s", stage.name, output_uri)
        return artifact
    for artifact in opened.values():
        artifact.verify()
    with _explain_disk(stage, output_uri):
        storage.make_dir(output_uri)
        with (
            locked_output(stage.name, output_uri),
            _metrics_file(output_uri) as metrics,
            tensorboard_sinks(runtime.tensorboard, stage.name) as curves,
        ):
            if plan.status == "replace":
                discard_output(output_uri, stage.name)
            verb = "continues in" if plan.status == "resume" else "writes"
            _LOGGER.info("%s: %s %s", stage.name, verb, output_uri)
            storage.remove_temporary_files(output_uri)
            storage.write_text(writer.path(STARTED_NAME), json.dumps(recipe, indent=2) + "\n")
            storage.write_text(writer.path(CONFIG_NAME), to_yaml(cfg))
            if runtime.threads:
                set_threads(runtime.threads)
            with _nothing_left_of_nothing(writer):
                launcher = launcher or LocalLauncher()
                return _run_and_commit(
                    stage,
                    cfg,
                    opened,
                    recipe,
                    writer,
                    launcher,
                    seed,
                    runtime,
                    [*sinks, *launcher.sinks, *curves, JsonLines(metrics)],
                )


def _run_and_commit(
    stage: Stage,
    cfg: Section,
    inputs: Mapping[str, Artifact],
    recipe: dict[str, Any],
    writer: ArtifactWriter,
    launcher: Launcher,
    seed: int,
    runtime: RuntimeConfig,
    sinks: Sequence[Sink],
) -> Artifact:
    start = time.monotonic()
    meter, tally = Meter(), Tally()
    launcher.take_usage()  # of a stage that failed before
    progress = Progress([*sinks, tally])
    progress.event("stage_started", stage=stage.name)

    def describe(kind: type[Artifact], summary: dict[str, Any]) -> Manifest:
        files = writer.describe_files()
        here, workers = meter.take(), launcher.take_usage()
        return Manifest(
            kind=kind.kind(),
            format_version=kind.format_version,
            stage=stage.name,
            stage_version=stage.version,
            fingerprint=fingerprint(recipe),
            content_hash=content_hash(files),
            recipe=recipe,
            inputs={name: _input_entry(artifact) for name, artifact in inputs.items()},
            files=files,
            summary=summary,
            provenance=Provenance(
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                duration_seconds=round(time.monotonic() - start, 3),
                peak_memory_bytes=here.peak_memory_bytes,
                num_workers=runtime.num_workers,
                versions=provenance.library_versions(),
                git_commit=provenance.git_commit(),
                worker_peak_memory_bytes=workers.peak_memory_bytes,
                cpu_hours=(here + workers).cpu_hours,
                gpu_hours=(here + workers).gpu_hours,
            ),
        )

    ctx = StageContext(writer, launcher, progress, seed, runtime, describe)
    result = stage.function(ctx, cfg, **inputs)
    if not isinstance(result, stage.output):
        raise TypeError(
            f"{stage.name} returned {type(result).__name__}, expected {stage.output.__name__}; "
            "a stage ends with `return ctx.finish(...)`"
        )
    progress.event("stage_finished", **_closing_values(result.manifest, tally), **ctx.notes)
    writer.commit(result.manifest)
    return result


def _closing_values(manifest: Manifest, tally: Tally) -> dict[str, Any]:
    done = manifest.provenance
    seconds = max(done.duration_seconds, 0.001)
    return {
        "stage": manifest.stage,
        "duration_seconds": done.duration_seconds,
        "rows": sum(entry.rows or 0 for entry in manifest.files),
        # Of what this run went through: rows and tokens that an earlier one has done do not count.
        **{
            f"{name}_per_second": round(tally.counts[name] / seconds, 3)
            for name in ("rows", "tokens")
            if name in tally.counts
        },
        "cpu_hours": done.cpu_hours,
        "gpu_hours": done.gpu_hours,
        "peak_memory_bytes": done.peak_memory_bytes,
        "worker_peak_memory_bytes": done.worker_peak_memory_bytes,
        "summary": manifest.summary,
        "content_hash": manifest.content_hash,
    }


def _input_entry(artifact: Artifact) -> InputEntry:
    return InputEntry(
        uri=artifact.uri,
        kind=artifact.kind(),
        content_hash=artifact.manifest.content_hash,
        manifest_sha256=storage.sha256(artifact.path(MANIFEST_NAME)),
    )


@contextlib.contextmanager
def _metrics_file(output_uri: str) -> Generator[Path]:
    """Give a local file for events; for a remote output it is appended at the end."""
    if storage.is_local(output_uri):
        yield storage.local_path(output_uri) / METRICS_NAME
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="difflm-") as folder:
        path = Path(folder) / METRICS_NAME
        path.touch()
        try:
            yield path
        finally:
            storage.append_text(storage.join(output_uri, METRICS_NAME), path.read_text("utf-8"))


@contextlib.contextmanager
def _nothing_left_of_nothing(writer: ArtifactWriter) -> Generator[None]:
    """Leave the folder empty if the stage is refused before it has written anything.

    Otherwise the folder would stay reserved for settings or data that could not be used.
    """
    try:
        yield
    except DiffLMError:
        if not writer.has_begun():
            writer.clear()
        raise


@contextlib.contextmanager
def _explain_disk(stage: Stage, output_uri: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, PermissionError) and output_uri in str(error.filename):
            raise StageError(
                f"{output_uri}: {stage.name} may not write here ({error.strerror}). Choose another "
                "output folder, or change its permissions."
            ) from None
        if not storage.is_full_disk(error):
            raise
        raise StageError(
            f"{output_uri}: no space is left for the output of {stage.name}. Free some, then run "
            "the same command again: what was written is kept, and it continues there."
        ) from None
