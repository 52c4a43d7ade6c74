"""The Python interface: learn a table, make more of it.

from difflm_core.api import DiffLM

model = DiffLM.fit(df, target="income")
synthetic = model.sample(1000, seed=1)
model.save_pretrained("model/")
model = DiffLM.from_pretrained("model/")
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from difflm_core import storage
from difflm_core.artifacts import MANIFEST_NAME, GeneratorBundle
from difflm_core.config import RunConfig
from difflm_core.config_file import build_config
from difflm_core.data.schema import Schema
from difflm_core.data.source_form import to_dataframe
from difflm_core.data.writers import RecordWriter
from difflm_core.device import choose_compute
from difflm_core.errors import ArtifactError, ConfigError, DiffLMError
from difflm_core.generation import generator as generation
from difflm_core.generation.bundle import AnyGenerator, load_generator
from difflm_core.generation.conditions import Conditions
from difflm_core.progress import SILENT, Progress, Sink

if TYPE_CHECKING:
    import pandas as pd


class DiffLM:
    """A generator of synthetic records, learned from real ones.

    Attributes:
        schema: What the records are made of.
        rejections: Tries that were rejected so far, by column and reason.
    """

    def __init__(self, bundle: GeneratorBundle, generator: AnyGenerator) -> None:
        """Wrap a loaded generator; use `fit` or `from_pretrained`."""
        self._bundle = bundle
        self._generator = generator
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.rejections: generation.Rejections = Counter()

    @property
    def schema(self) -> Schema:
        """What the records are made of."""
        return self._generator.codec.schema

    @classmethod
    def fit(
        cls,
        data: pd.DataFrame | pa.Table | str | Path,
        metadata: Schema | Mapping[str, Any] | str | Path | None = None,
        *,
        target: str | None = None,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
    ) -> DiffLM:
        """Learn a table.

        Args:
            data: A DataFrame, an Arrow table, or a path, glob or URI of files.
            metadata: What is known of the columns: a `Schema`, a schema.json, SDV metadata (as a
                path or a mapping). Everything else is inferred.
            target: Column that a downstream model predicts.
            seed: Seed of all randomness; same seed, same model.
            config: Settings that differ from the defaults, by section, such as
                `{"vae": {"max_epochs": 5}}`.
            sinks: Where progress is reported.

        Raises:
            DiffLMError: the data or a setting cannot be used; the message says what to do.
        """
        from difflm_core.stages.pipeline import fit_pipeline

        folder = tempfile.TemporaryDirectory(prefix="difflm-")
        root = Path(folder.name)
        try:
            source, label = _as_source(data, root)
            settings = _fit_config(source, metadata, target, seed, config, root)
            with _naming(source, label):
                bundle = fit_pipeline(settings, str(root / "model"), sinks=sinks)
            if source != label:  # the records are needed no more
                Path(source).unlink()
            model = cls.from_pretrained(
                bundle.uri,
                device=settings.runtime.device,
                precision=settings.runtime.precision,
            )
        except BaseException:
            folder.cleanup()
            raise
        model._folder = folder  # the bundle lives as long as the model
        return model

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "auto", precision: str = "auto"
    ) -> DiffLM:
        """Load a model written by `save_pretrained`, `difflm fit` or a run.

        Args:
            path: Folder or URI of the model, or of a run that holds one.
            device: auto, cpu, cuda or cuda:N.
            precision: auto, float32 or bfloat16; see `runtime.precision`.

        Raises:
            ArtifactError: there is no complete model.
        """
        uri = str(path)
        inside = storage.join(uri, "generator")
        if not storage.exists(storage.join(uri, MANIFEST_NAME)) and storage.exists(
            storage.join(inside, MANIFEST_NAME)
        ):
            uri = inside
        bundle = GeneratorBundle.open(uri, verify=True)
        compute = choose_compute(device, precision)
        with bundle.local() as folder:
            generator = load_generator(folder, compute)
        return cls(bundle, generator)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to a new folder or URI: safetensors and JSON, readable on any machine.

        Raises:
            ArtifactError: the folder holds something already.
        """
        uri = str(path)
        if storage.exists(uri) and not storage.is_dir(uri):
            raise ArtifactError(f"{uri}: this is a file; expected a new folder.")
        if storage.list_files(uri):
            raise ArtifactError(
                f"{uri}: this folder is not empty. Choose another one, or empty it first."
            )
        storage.make_dir(uri)
        names = [entry.path for entry in self._bundle.manifest.files]
        for name in [*names, MANIFEST_NAME]:  # the manifest last: its presence means complete
            with (
                self._bundle.local(name) as source,
                storage.atomic_output(storage.join(uri, name)) as target,
            ):
                shutil.copyfile(source, target)

    def sample(
        self,
        num_rows: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_attempts: int = 16,
        conditions: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Make exactly `num_rows` new records, in the form of the original table.

        Args:
            num_rows: How many.
            seed: Same seed, same records.
            temperature: Softmax temperature; 1 keeps the learned distribution.
            top_p: Probability mass kept at each token.
            max_attempts: Most tries for a record whose free text comes out invalid.
            conditions: What every record must meet, by column: a value, a list of values, None
                for a missing value, or `{"min": ..., "max": ...}`, such as
                `{"sex": "Female", "age": {"min": 30, "max": 40}}`. The records follow the model's
                distribution given the conditions; rare ones take proportionally longer. Texts
                such as `["sex=Female", "age=30..40"]` are understood too.

        Raises:
            ConfigError: an argument is out of its range, or a condition cannot be met.
            StageError: a record was rejected `max_attempts` times, or hardly any record meets the
                conditions.
        """
        options = self._options(num_rows, seed, temperature, top_p, max_attempts, conditions)
        batches = list(self._batches(num_rows, options, SILENT))
        return to_dataframe(pa.Table.from_batches(batches), self.schema)

    def sample_to(
        self,
        output: str | Path,
        num_rows: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_attempts: int = 16,
        conditions: Mapping[str, Any] | Sequence[str] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Write exactly `num_rows` new records to a .parquet, .csv or .jsonl file; see `sample`.

        Memory does not grow with `num_rows`; the file appears when it is complete.
        """
        options = self._options(num_rows, seed, temperature, top_p, max_attempts, conditions)
        with RecordWriter(str(output), self.schema) as writer:
            for batch in self._batches(num_rows, options, progress):
                writer.write(batch)

    def _options(
        self,
        num_rows: int,
        seed: int,
        temperature: float,
        top_p: float,
        max_attempts: int,
        conditions: Mapping[str, Any] | Sequence[str] | None,
    ) -> generation.SamplingOptions:
        """Check the arguments as the settings of a run are checked."""
        asked = {
            "num_rows": num_rows,
            "temperature": temperature,
            "top_p": top_p,
            "max_attempts": max_attempts,
        }
        build_config({"generation": asked, "seed": seed}, "sample")
        return generation.SamplingOptions(
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            max_attempts=max_attempts,
            conditions=Conditions.parse(conditions or {}, self._generator.codec),
        )

    def _batches(
        self, num_rows: int, options: generation.SamplingOptions, progress: Progress
    ) -> Iterator[pa.RecordBatch]:
        made = self._generator.batches(num_rows, options, rejections=self.rejections)
        with progress.track("Generating records", total=num_rows) as bar:
            for batch in made:
                bar.advance(batch.num_rows)
                yield batch


def _fit_config(
    source: str,
    metadata: Schema | Mapping[str, Any] | str | Path | None,
    target: str | None,
    seed: int,
    config: Mapping[str, Any] | None,
    root: Path,
) -> RunConfig:
    """The configuration of a fit: no records are kept for evaluation unless asked for."""
    values: dict[str, Any] = dict(config or {})
    given = values.get("data") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"DiffLM.fit: data is {given!r}; expected settings by name")
    section: dict[str, Any] = {"test_fraction": 0.0, **given, "source": source}
    if metadata is not None:
        section["schema_path"] = _as_schema_path(metadata, root)
    if target is not None:
        section["target"] = target
    return build_config({"seed": seed, **values, "data": section}, "DiffLM.fit")


def _as_source(data: Any, root: Path) -> tuple[str, str]:
    """A path of the data, and what to call it; a table in memory is written to a Parquet file."""
    if isinstance(data, str | Path):
        return str(data), str(data)
    import pyarrow.parquet as pq

    from difflm_core.data.readers import open_source

    source = open_source(data)
    path = root / "data.parquet"
    with pq.ParquetWriter(path, source.schema, compression="zstd") as writer:
        for batch in source.batches():
            writer.write_batch(batch)
    return str(path), source.label


@contextlib.contextmanager
def _naming(path: str, label: str) -> Generator[None]:
    """Let errors call the data what the caller calls it."""
    try:
        yield
    except DiffLMError as error:
        raise type(error)(str(error).replace(path, label)) from None


def _as_schema_path(metadata: Any, root: Path) -> str:
    """A path of what is known of the columns."""
    if isinstance(metadata, str | Path):
        return str(metadata)
    path = root / "schema.json"
    if isinstance(metadata, Schema):  # what it leaves open is inferred
        values = metadata.model_dump(mode="json", exclude_unset=True)
    else:
        values = metadata.to_dict() if hasattr(metadata, "to_dict") else metadata
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"metadata is a {type(metadata).__name__}; expected a Schema, SDV metadata, or the "
            "path of a schema.json"
        )
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)
