"""The Python interface: a DataFrame in, a DataFrame of the same form out."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from difflm_core.api import DiffLM
from difflm_core.data.schema import ColumnKind, Schema
from difflm_core.errors import ArtifactError, ConfigError, DataError, SchemaError, StageError
from tests.people import SETTINGS, make_people

CONFIG = {"codec": SETTINGS["codec"], "vae": SETTINGS["vae"], "diffusion": SETTINGS["diffusion"]}


def fit(data, **options):
    return DiffLM.fit(data, config=options.pop("config", CONFIG), **options)


def small_frame(num_rows=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": rng.integers(0, 50, num_rows),
            "colour": rng.choice(["red", "green", "blue"], num_rows),
        }
    )


@pytest.fixture(scope="module")
def typed_frame():
    """A column of each dtype that pandas users have."""
    frame = make_people(200).drop(columns="note")
    frame["seen"] = frame["joined"].dt.as_unit("us").dt.tz_localize("Europe/Berlin", "NaT", "NaT")
    frame["job"] = frame["job"].astype("category")
    frame["age"] = frame["age"].astype("int32")
    frame["score"] = (frame["age"] / 3).round(1).astype("float32")
    frame["visits"] = pd.array([None if i % 5 == 0 else i % 9 for i in range(200)], "Int64")
    frame["rank"] = pd.array([None if i % 6 == 0 else i % 4 for i in range(200)], "UInt8")
    frame["active"] = pd.array([None if i % 8 == 0 else i % 3 == 0 for i in range(200)], "boolean")
    frame["day"] = [value.date() for value in frame["joined"]]
    frame["town"] = pd.array(["Bonn", "Köln"] * 100, "string")
    return frame


@pytest.fixture(scope="module")
def model(typed_frame):
    return fit(typed_frame, target="label", seed=5)


def test_a_sample_has_the_form_of_the_table(model, typed_frame):
    made = model.sample(37)
    assert len(made) == 37
    assert list(made.columns) == list(typed_frame.columns)
    found = made.dtypes.astype(str).to_dict()
    expected = typed_frame.dtypes.astype(str).to_dict()
    assert found == expected
    assert set(made["job"].cat.categories) <= {"clerk", "cook", "nurse", "pilot"}
    assert made["person"].is_unique
    assert not set(made["person"]) & set(typed_frame["person"])
    assert model.schema.target == "label"


def test_the_same_seed_gives_the_same_sample(model):
    pd.testing.assert_frame_equal(model.sample(20, seed=1), model.sample(20, seed=1))
    assert not model.sample(20, seed=1).equals(model.sample(20, seed=2))


def test_a_saved_model_gives_the_same_sample(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = DiffLM.from_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.sample(25), model.sample(25))
    assert loaded.schema == model.schema
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".md"}
    # A model that was loaded can be saved again, byte for byte.
    loaded.save_pretrained(tmp_path / "again")
    for path in (tmp_path / "model").rglob("*.*"):
        again = tmp_path / "again" / path.relative_to(tmp_path / "model")
        assert again.read_bytes() == path.read_bytes()


def test_a_model_keeps_no_training_records_around(model):
    root = model._bundle.uri.rpartition("/")[0]
    assert sorted(path.name for path in pa_files(root)) == [
        "calibration.safetensors",
        "codec.json",
        "codec.safetensors",
        "config.yaml",
        "diffusion.json",
        "diffusion.safetensors",
        "manifest.json",
        "metrics.jsonl",
        "model_card.md",
        "vae.json",
        "vae.safetensors",
    ]


def pa_files(root):
    from pathlib import Path

    return [path for path in Path(root).rglob("*") if path.is_file()]


def test_a_run_loads_without_its_corpus(people_run, tmp_path):
    shutil.copytree(people_run / "generator", tmp_path / "run" / "generator")
    loaded = DiffLM.from_pretrained(tmp_path / "run")
    made = loaded.sample(5, max_attempts=1000)
    assert len(made) == 5
    assert loaded.rejections["note", "not valid UTF-8"] > 0


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_sample_to_a_file(model, tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    model.sample_to(path, 12, seed=4)
    expected = model.sample(12, seed=4)
    readers = {
        "parquet": pd.read_parquet,
        "csv": pd.read_csv,
        "jsonl": lambda file: pd.read_json(file, lines=True),
    }
    read = readers[suffix](path)
    assert read["person"].tolist() == expected["person"].tolist()
    assert read["age"].tolist() == expected["age"].tolist()


# ---------------------------------------------------------------------- data and metadata


def test_an_arrow_table_and_a_path_are_data_too(tmp_path):
    frame = small_frame()
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    samples = [
        fit(data).sample(10)
        for data in (frame, pa.Table.from_pandas(frame), tmp_path / "t.parquet")
    ]
    pd.testing.assert_frame_equal(samples[0], samples[1])
    pd.testing.assert_frame_equal(samples[0], samples[2])


def test_the_index_of_a_frame_is_no_column():
    frame = small_frame().set_index(pd.Index(range(100, 160), name="key"))
    assert list(fit(frame).sample(3).columns) == ["amount", "colour"]


SDV = {
    "METADATA_SPEC_VERSION": "SINGLE_TABLE_V1",
    "columns": {"amount": {"sdtype": "categorical"}, "colour": {"sdtype": "categorical"}},
}


@pytest.mark.parametrize("form", ["schema", "mapping", "path", "object"])
def test_metadata_in_every_form(form, tmp_path):
    (tmp_path / "sdv.json").write_text(json.dumps(SDV))

    class Metadata:
        def to_dict(self):
            return SDV

    metadata = {
        "schema": Schema.load(tmp_path / "sdv.json"),
        "mapping": SDV,
        "path": tmp_path / "sdv.json",
        "object": Metadata(),
    }[form]
    model = fit(small_frame(), metadata=metadata)
    assert model.schema.column("amount").kind is ColumnKind.CATEGORICAL
    assert model.sample(5)["amount"].dtype == np.int64


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (
            3,
            {},
            DataError,
            "found a int, expected a path, a pandas DataFrame or an Arrow table",
        ),
        (
            small_frame().assign(amount=float("inf")),
            {},
            DataError,
            "DataFrame, column 'amount': found 60 infinite values (inf); expected finite numbers "
            "or missing; replace them, or declare 'inf' and '-inf' in missing_values of the column",
        ),
        (
            small_frame(),
            {"target": "color"},
            SchemaError,
            "DataFrame: target column 'color' does not exist; nearest: 'colour'",
        ),
        (
            small_frame(),
            {"config": {"vae": {"widht": 3}}},
            ConfigError,
            "DiffLM.fit: vae.widht is not a known key. Did you mean vae.width?",
        ),
        (
            small_frame(),
            {"config": {"data": 3}},
            ConfigError,
            "DiffLM.fit: data is 3; expected settings by name",
        ),
        (
            small_frame(),
            {"metadata": 3},
            ConfigError,
            "metadata is a int; expected a Schema, SDV metadata, or the path of a schema.json",
        ),
        (
            small_frame(1),
            {},
            DataError,
            "DataFrame: found 1 row, expected at least 3 to have training, validation rows (2 to "
            "train on); add rows, or set valid_fraction or test_fraction to 0",
        ),
        (
            small_frame().set_axis(["a", "a"], axis=1),
            {},
            DataError,
            "DataFrame: column name 'a' appears more than once (columns 1 and 2); expected unique "
            "names; rename one",
        ),
    ],
)
def test_bad_input_is_one_clear_error(data, options, error, message):
    with pytest.raises(error) as caught:
        fit(data, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_rows": 0},
            "sample: generation.num_rows = 0: expected an integer at least 1 or null.",
        ),
        (
            {"num_rows": 3, "temperature": 0},
            "sample: generation.temperature = 0: expected a number above 0.",
        ),
        (
            {"num_rows": 3, "top_p": 1.5},
            "sample: generation.top_p = 1.5: expected a number above 0 and at most 1.",
        ),
        (
            {"num_rows": 3, "seed": -1},
            "sample: seed = -1: expected an integer at least 0 and at most 2147483647.",
        ),
    ],
)
def test_a_bad_argument_of_sample(model, arguments, message):
    with pytest.raises(ConfigError) as caught:
        model.sample(**arguments)
    assert str(caught.value) == message


def test_text_that_cannot_be_made_valid_names_column_and_reason(people_run):
    with pytest.raises(StageError, match=r"rejected 1 times each \('note': not valid UTF-8"):
        DiffLM.from_pretrained(people_run).sample(50, max_attempts=1)


def test_from_pretrained_of_nothing(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        DiffLM.from_pretrained(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path}/none: there is nothing here, expected a GeneratorBundle."
    )


def test_a_truncated_model_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "vae.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtifactError) as caught:
        DiffLM.from_pretrained(tmp_path / "model")
    assert str(caught.value) == (
        f"{tmp_path}/model: the file vae.safetensors of this GeneratorBundle is truncated: found "
        f"100 bytes, expected {size}. Restore it, or run the stage train-diffusion again with "
        "--fresh."
    )


def test_save_pretrained_never_overwrites(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        model.save_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: this folder is not empty. Choose another one, or empty it first."
    )
    with pytest.raises(ArtifactError, match=r"notes\.txt: this is a file; expected a new folder"):
        model.save_pretrained(tmp_path / "notes.txt")


def test_sample_to_an_unknown_format(model, tmp_path):
    with pytest.raises(ConfigError, match=r"found ending '\.xlsx', expected one of \.parquet"):
        model.sample_to(tmp_path / "out.xlsx", 3)
    assert not list(tmp_path.iterdir())
