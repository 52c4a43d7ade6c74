"""Which models there are, at which version, and what is known of them.

A model is a generator's bundle, alone or inside a run that also evaluated it. Its version is the
beginning of its content hash. The registry looks again from time to time: new models of a folder
appear, a replaced bundle becomes a new version, and while one is being replaced the last version
stays.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from components.serving.problems import ServiceError
from components.serving.schemas import Finding, ModelSummary, Quality
from difflm_core import storage
from difflm_core.artifacts import MANIFEST_NAME, GeneratorBundle, Manifest, read_manifest
from difflm_core.codec.loading import AnyCodec, load_codec
from difflm_core.data.schema import Schema
from difflm_core.errors import ArtifactError, ConfigError, DiffLMError
from difflm_core.generation.bundle import CODEC_FOLDER

_LOGGER = logging.getLogger("difflm.serve")
GENERATOR_FOLDER, REPORT_FOLDER = "generator", "report"
CARD_NAME, REPORT_NAME = "model_card.md", "report.json"
VERSION_LENGTH = 12


@dataclass(frozen=True)
class ModelRef:
    """A version of a model, as replicas are asked for it."""

    id: str
    version: str
    uri: str

    @property
    def key(self) -> str:
        """What replicas that hold it are found by."""
        return f"{self.id}@{self.version}"


@dataclass(frozen=True)
class Model:
    """A version of a model and what is known of it."""

    ref: ModelRef
    num_training_rows: int | None
    codec: AnyCodec = field(repr=False)
    card: str = field(repr=False)
    quality: Quality | None = field(repr=False)

    @property
    def schema(self) -> Schema:
        """What its rows are made of."""
        return self.codec.schema

    @cached_property
    def summary(self) -> ModelSummary:
        """Its line in the list."""
        return ModelSummary(
            id=self.ref.id,
            version=self.ref.version,
            num_columns=len(self.schema.columns),
            num_training_rows=self.num_training_rows,
            target=self.schema.target,
            headline=self.quality.headline if self.quality else None,
        )


def find_models(places: Iterable[str]) -> dict[str, str]:
    """URIs of generators by name.

    Args:
        places: Each a generator, a run, a folder of such, or NAME=URI of one of the first two.

    Raises:
        ConfigError: a place holds no model, or two models have the same name.
    """
    found: dict[str, str] = {}
    for place in places:
        name, equals, uri = place.partition("=")
        if not equals or "/" in name:
            name, uri = "", place
        models = _models_at(uri, name)
        if not models:
            raise ConfigError(
                f"{uri}: there is no model here. Expected the folder of a model (`difflm fit`), of "
                "a run (`difflm run`), or a folder that holds some."
            )
        for model, generator in models.items():
            if found.get(model, generator) != generator:
                raise ConfigError(
                    f"Two models are called {model!r}: {found[model]} and {generator}. Name one of "
                    f"them: NAME={generator}"
                )
            found[model] = generator
    return found


def _models_at(uri: str, name: str = "") -> dict[str, str]:
    uri = uri.rstrip("/") or uri
    if generator := _generator_at(uri):
        return {name or _name_of(generator): generator}
    folders = {info.path.partition("/")[0] for info in storage.list_files(uri) if "/" in info.path}
    inside = (_generator_at(storage.join(uri, folder)) for folder in sorted(folders))
    return {_name_of(generator): generator for generator in inside if generator}


def _generator_at(uri: str) -> str | None:
    for candidate in (uri, storage.join(uri, GENERATOR_FOLDER)):
        if storage.exists(storage.join(candidate, MANIFEST_NAME)):
            try:
                kind = read_manifest(candidate).kind
            except ArtifactError:
                continue
            if kind == GeneratorBundle.kind():
                return candidate
    return None


def _name_of(generator: str) -> str:
    parts = [part for part in generator.replace("\\", "/").split("/") if part not in ("", ".")]
    named = [part for part in parts if part != GENERATOR_FOLDER]
    return named[-1] if named else GENERATOR_FOLDER


class Registry:
    """The models of a service.

    Attributes:
        models: The current version of each, by name.
        failures: Why a model that should be here is not, by name.
    """

    def __init__(self, fixed: Mapping[str, str], folders: Iterable[str] = ()) -> None:
        """Look for the models.

        Args:
            fixed: URI of each generator by name.
            folders: Folders whose models come and go.
        """
        self._fixed = dict(fixed)
        self._folders = list(folders)
        self.models: dict[str, Model] = {}
        self.failures: dict[str, str] = {}

    def refresh(self) -> list[Model]:
        """Look again; give the new versions. A model that cannot be read keeps its last one."""
        wanted = dict(self._fixed)
        for folder in self._folders:
            for name, uri in _models_at(folder).items():
                wanted.setdefault(name, uri)
        for name, model in self.models.items():
            # Without its manifest it is being replaced; without any files it is gone.
            if name not in wanted and storage.list_files(model.ref.uri):
                wanted[name] = model.ref.uri
        found: dict[str, Model] = {}
        fresh: list[Model] = []
        failures: dict[str, str] = {}
        for name, uri in sorted(wanted.items()):
            before = self.models.get(name)
            try:
                model = read_model(name, uri, before)
            except (DiffLMError, OSError, ValueError) as error:
                failures[name] = str(error)
                if self.failures.get(name) != failures[name]:
                    _LOGGER.warning("model %s cannot be read: %s", name, error)
                model = before
            if model is not None:
                found[name] = model
                if model is not before:
                    fresh.append(model)
        self.models, self.failures = found, failures
        return fresh

    def get(self, name: str) -> Model:
        """The current version of a model.

        Raises:
            ServiceError: there is none of this name.
        """
        model = self.models.get(name)
        if model is None:
            known = ", ".join(sorted(self.models)) or "none yet"
            raise ServiceError("not_found", f"There is no model {name!r} here. Models: {known}.")
        return model


def read_model(name: str, uri: str, before: Model | None = None) -> Model:
    """Read what is known of a model; `before` if it is still this version.

    Raises:
        ArtifactError: it is incomplete or damaged.
    """
    manifest = read_manifest(uri, GeneratorBundle.kind())
    version = manifest.content_hash[:VERSION_LENGTH]
    report = _sibling_report(uri, manifest)
    same = before is not None and (before.ref.version, before.ref.uri) == (version, uri)
    if before is not None and same and (before.quality or not report):
        return before
    bundle = GeneratorBundle(uri, manifest)
    with bundle.local(CODEC_FOLDER) as folder:
        codec = load_codec(folder)
    card = storage.join(uri, CARD_NAME)
    return Model(
        ModelRef(name, version, uri),
        manifest.summary.get("num_training_rows"),
        codec,
        storage.read_text(card) if storage.exists(card) else "",
        _read_quality(report) if report else None,
    )


def _sibling_report(uri: str, manifest: Manifest) -> str | None:
    """The report of the run that made the bundle, if it is of this very bundle."""
    run, _, folder = uri.rstrip("/").rpartition("/")
    report = storage.join(run or ".", REPORT_FOLDER)
    if folder != GENERATOR_FOLDER or not storage.exists(storage.join(report, MANIFEST_NAME)):
        return None
    synthetic = storage.join(run or ".", "synthetic")
    if not storage.exists(storage.join(synthetic, MANIFEST_NAME)):
        return None
    made_by = read_manifest(synthetic).inputs.get("generator")
    same = made_by is not None and made_by.content_hash == manifest.content_hash
    return storage.join(report, REPORT_NAME) if same else None


def _read_quality(uri: str) -> Quality:
    verdict: dict[str, Any] = json.loads(storage.read_text(uri))["verdict"]
    findings = [
        Finding(
            title=found["title"],
            value=found["value"],
            light=found["light"],
            sentence=found["sentence"],
        )
        for found in verdict["findings"]
    ]
    return Quality(light=verdict["light"], headline=verdict["headline"], findings=findings)
