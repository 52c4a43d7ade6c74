"""The Python interface: learn a table, make more of it.

from difflm_core.api import DiffLM

model = DiffLM.fit(df, target="income")
synthetic = model.sample(1000, seed=1)
model.save_pretrained("model/")
model = DiffLM.from_pretrained("model/")
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from difflm_core.device import choose_device
from difflm_core.errors import ArtifactError, ConfigError, DataError
from difflm_core.generation.bundle import load_generator
from difflm_core.generation.generator import Generator, Rejections, SamplingOptions
from difflm_core.progress import SILENT, Progress, Sink

if TYPE_CHECKING:
    import pandas as pd


class DiffLM:
    """A generator of synthetic records, learned from real ones.

    Attributes:
        schema: What the records are made of.
        rejections: Tries that were rejected so far, by column and reason.
    """

    def __init__(self, bundle: GeneratorBundle, generator: Generator) -> None:
        """Wrap a loaded generator; use `fit` or `from_pretrained`."""
        self._bundle = bundle
        self._generator = generator
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.rejections: Rejections = Counter()

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
        values: dict[str, Any] = {k: dict(v) for k, v in (config or {}).items()}
        section = {"test_fraction": 0.0, **values.get("data", {})}
        section["source"] = _as_source(data, root)
        if metadata is not None:
            section["schema_path"] = _as_schema_path(metadata, root)
        if target is not None:
            section["target"] = target
        settings: RunConfig = build_config({**values, "data": section, "seed": seed}, "DiffLM.fit")
        bundle = fit_pipeline(settings, str(root / "model"), sinks=sinks)
        model = cls.from_pretrained(bundle.uri, device=settings.runtime.device)
        model._folder = folder  # the bundle lives as long as the model
        return model

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "auto") -> DiffLM:
        """Load a model written by `save_pretrained`, `difflm fit` or a run.

        Args:
            path: Folder or URI of the model, or of a run that holds one.
            device: auto, cpu, cuda or cuda:N.

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
        with bundle.local() as folder:
            return cls(bundle, load_generator(folder, choose_device(device)))

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to a new folder or URI: safetensors and JSON, readable on any machine.

        Raises:
            ArtifactError: the folder holds something already.
        """
        uri = str(path)
        if storage.list_files(uri) if storage.is_dir(uri) else False:
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
                target.write_bytes(source.read_bytes())

    def sample(
        self, num_rows: int, *, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0
    ) -> pd.DataFrame:
        """Make exactly `num_rows` new records, in the form of the original table.

        Args:
            num_rows: How many.
            seed: Same seed, same records.
            temperature: Softmax temperature; 1 keeps the learned distribution.
            top_p: Probability mass kept at each token.
        """
        options = self._options(num_rows, seed, temperature, top_p)
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
        progress: Progress = SILENT,
    ) -> None:
        """Write exactly `num_rows` new records to a .parquet, .csv or .jsonl file.

        Memory does not grow with `num_rows`; the file appears when it is complete.
        """
        options = self._options(num_rows, seed, temperature, top_p)
        with RecordWriter(str(output), self.schema) as writer:
            for batch in self._batches(num_rows, options, progress):
                writer.write(batch)

    def _options(
        self, num_rows: int, seed: int, temperature: float, top_p: float
    ) -> SamplingOptions:
        if num_rows < 1:
            raise ConfigError(f"num_rows is {num_rows}; expected at least 1")
        if temperature <= 0:
            raise ConfigError(f"temperature is {temperature}; expected a number above 0")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p is {top_p}; expected a number above 0 and up to 1")
        return SamplingOptions(seed=seed, temperature=temperature, top_p=top_p)

    def _batches(
        self, num_rows: int, options: SamplingOptions, progress: Progress
    ) -> Iterator[pa.RecordBatch]:
        import torch

        with progress.track("Generating records", total=num_rows) as bar:
            for batch in self._generator.batches(
                num_rows,
                options,
                num_threads=torch.get_num_threads(),
                rejections=self.rejections,
            ):
                bar.advance(batch.num_rows)
                yield batch


def _as_source(data: Any, root: Path) -> str:
    """A path or URI of the data; a table in memory is written to a temporary Parquet file."""
    if isinstance(data, str | Path):
        return str(data)
    import pyarrow.parquet as pq

    if not isinstance(data, pa.Table):
        if not hasattr(data, "columns"):
            raise DataError(
                f"data is a {type(data).__name__}; expected a pandas DataFrame, an Arrow table, or "
                "a path of CSV, TSV, JSONL or Parquet files"
            )
        data = pa.Table.from_pandas(data, preserve_index=False)
    path = root / "data.parquet"
    pq.write_table(data, path)
    return str(path)


def _as_schema_path(metadata: Any, root: Path) -> str:
    if isinstance(metadata, str | Path):
        return str(metadata)
    path = root / "schema.json"
    if isinstance(metadata, Schema):
        metadata.save(path)
        return str(path)
    import json

    values = metadata.to_dict() if hasattr(metadata, "to_dict") else metadata
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)
