"""Bad input through the real command line: right behaviour, or one clear error and exit code 2."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from difflm_core.api import DiffLM
from difflm_core.cli import main
from difflm_core.cli.console import SETTINGS
from difflm_core.data.identifiers import IdentifierPattern
from tests.people import SETTINGS as SMALL
from tests.people import people_config

pytestmark = pytest.mark.e2e

SMALL_ARGUMENTS = [
    argument
    for section in ("vae", "diffusion")
    for key, value in {**SMALL[section], "max_tokens": 2000, "num_steps": 4}.items()
    if key in SMALL[section]
    for argument in ("--set", f"{section}.{key}={value}")
]


@pytest.fixture(autouse=True)
def _logging_as_before():
    logger = logging.getLogger("difflm")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.getLogger("difflm.stage").setLevel(logging.NOTSET)
    SETTINGS.quiet = False


@pytest.fixture
def difflm(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty directory; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["difflm", *argv])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return call


@pytest.fixture
def run(difflm, tmp_path):
    """Write a table and a run.yaml, and run it: `run(table, "--set", ...)`."""

    def call(table, *arguments, name="table.csv"):
        if isinstance(table, bytes | str):
            Path(name).write_bytes(table.encode() if isinstance(table, str) else table)
        elif name.endswith(".parquet"):
            table.to_parquet(name)
        elif table is not None:
            table.to_csv(name, index=False)
        Path("run.yaml").write_text(f"data: {{source: {name}}}\noutput: out\n")
        return difflm("--quiet", "run", "run.yaml", *SMALL_ARGUMENTS, *arguments)

    return call


def complete(folder="."):
    """Folders that look complete."""
    return sorted(path.parent.name for path in Path(folder).rglob("manifest.json"))


def plain(num_rows=120):
    """A table with nothing special."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"a": rng.integers(0, 50, num_rows), "b": rng.choice(list("xyz"), num_rows)}
    )


def made():
    return pd.concat([pd.read_parquet(path) for path in sorted(Path("out/synthetic").glob("p*"))])


# ------------------------------------------------------------------------ refused before work

INFINITE = pd.DataFrame({"x": [1.5, np.inf, np.nan, 2.25] * 50, "b": list("xyxz") * 50})
MIXED = pd.DataFrame({"m": [f"{row}.5" for row in range(500)] + ["secret7", "oops"], "b": "x"})
CONSTANT = "expected at least one column whose values vary and repeat; add one, or correct the "

REFUSED = {
    "missing file": (
        None,
        (),
        "table.csv: there is no such file or directory; check the path",
    ),
    "empty file": (
        "",
        (),
        "table.csv: the file is empty; expected a header line and at least one row",
    ),
    "no rows": (
        "a,b\n",
        (),
        "table.csv: the table has no rows; expected at least one data row (is the file empty, or "
        "does it have only a header?)",
    ),
    "one row": (
        plain(1),
        (),
        "table.csv: found 1 row, expected at least 4 to have training, validation, test rows (2 "
        "to train on); add rows, or set valid_fraction or test_fraction to 0",
    ),
    "only constants": (
        plain().assign(a=1, b="x"),
        (),
        "table.csv: there is nothing to learn: column 'a' is constant, column 'b' is constant; "
        f"{CONSTANT}kinds in a schema.json (difflm schema infer) and pass it as data.schema_path",
    ),
    "only missing": (
        "a,b\n,\n,\n,\n,\n,\n",
        (),
        "table.csv: there is nothing to learn: column 'a' is constant, column 'b' is constant; "
        f"{CONSTANT}kinds in a schema.json (difflm schema infer) and pass it as data.schema_path",
    ),
    "duplicate names": (
        "age,job,age\n1,x,2\n",
        (),
        "table.csv: column name 'age' appears more than once (columns 1 and 3); expected unique "
        "names; rename one",
    ),
    "empty name": (
        ",b\n1,2\n",
        (),
        "table.csv: column 1 has an empty name; expected a name (an index saved by pandas? write "
        "it with index=False); name it in the file, or pass column_names",
    ),
    "mixed types": (
        MIXED,
        (),
        "table.csv, column 'm': found 500 numbers and 2 cells that are not (such as text of the "
        "form 'aaaa'); expected one type; correct them, list their spellings in "
        "missing_values, or declare the column categorical in the schema",
    ),
    "ragged row": (
        "a,b\n1,2\n3\n",
        (),
        "table.csv: row 2 has 1 fields, expected 2 as in the first line; correct the row (a "
        "delimiter inside a value needs quotes), or pass another delimiter than ','",
    ),
    "absent target": (
        plain(),
        ("--set", "data.target=bb"),
        "table.csv: target column 'bb' does not exist; nearest: 'b'",
    ),
    "config typo": (
        plain(),
        ("--set", "vae.widht=3"),
        "--set vae.widht is not a known key. Did you mean vae.width?",
    ),
    "wrong value": (
        plain(),
        ("--set", "vae.width=wide"),
        "--set vae.width = 'wide': expected an integer at least 8.",
    ),
    "width and heads": (
        plain(),
        ("--set", "vae.width=33"),
        "--set vae: width 33 is not a multiple of num_heads 2; every head takes an equal part of "
        "it.",
    ),
    "nothing to evaluate on": (
        plain(),
        ("--set", "data.test_fraction=0"),
        "data.test_fraction is 0 and data.test_source is not set, so there would be no records to "
        "evaluate on. Set one of them; or make a model without a report: difflm fit.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_before_work(run, case):
    table, arguments, message = REFUSED[case]
    code, out, err = run(table, *arguments)
    assert (code, out, err) == (2, "", f"Error: {message}\n")
    assert complete() == []
    # Nothing reserves the folder: once the input is right, the same command runs.
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_infinite_numbers(run):
    code, _, err = run(INFINITE, name="table.parquet")
    assert (code, err) == (
        2,
        "Error: table.parquet, column 'x': found 50 infinite values (inf); expected finite numbers "
        "or missing; replace them, or declare 'inf' and '-inf' in missing_values of the column\n",
    )
    assert complete() == []


def test_the_data_can_be_corrected_and_the_command_given_again(run):
    assert run("a,b\n1,2\n3\n")[0] == 2
    code, _, err = run(plain())
    assert (code, err) == (0, "")


def test_a_device_that_is_not_there(run):
    code, _, err = run(plain(), "--set", "runtime.device=cuda:99")
    assert code == 2
    assert err.startswith("Error: runtime.device = 'cuda:99': torch ")
    assert "finds no such device on this machine. Expected auto, or one of: cpu" in err
    assert "vae" not in complete()


# ---------------------------------------------------------------------------- right behaviour


def check_made(run, table, name="table.csv", **expected):
    code, _, err = run(table, name=name)
    assert (code, err) == (0, "")
    assert complete("out") == ["corpus", "generator", "latents", "report", "synthetic", "vae"]
    frame = made()
    assert list(frame.columns) == list(expected.pop("columns", table.columns))
    for column, test in expected.items():
        assert frame[column].map(test).all(), column
    return frame


def test_one_column(run):
    check_made(run, plain()[["b"]], b=lambda value: value in "xyz")


def test_four_rows(run):
    assert len(check_made(run, plain(4))) == 2


def test_shards_without_rows(run):
    # Rows are dealt out at random, so some of as many shards as rows get none.
    code, _, err = run(plain(10), "--set", "codec.shard_rows=1")
    assert (code, err) == (0, "")
    assert {0, 1} <= {
        pq.read_metadata(path).num_rows for path in Path("out/corpus").rglob("*.par*")
    }


def test_columns_without_values_or_variety(run):
    table = plain().assign(missing=None, same="thé", number=7)
    check_made(
        run,
        table,
        missing=lambda value: value is None,
        same=lambda value: value == "thé",
        number=lambda value: value == 7,
    )


def test_odd_names(run):
    names = ['say "hi", you', "größe 🙂 a.b"]
    check_made(run, plain().set_axis(names, axis=1), columns=names)


def test_missing_numbers(run):
    frame = check_made(run, INFINITE.replace(np.inf, 3.0), name="table.parquet")
    assert frame["x"].isna().any()
    assert set(frame["x"].dropna()) <= {1.5, 2.25, 3.0}


def test_integers_beyond_2_to_53(run):
    numbers = [2**53 + 1 + 2 * row for row in range(100)] + [2**63 - 1, -(2**63)]
    table = pd.DataFrame({"n": numbers, "b": list("xy") * 51})
    frame = check_made(run, table)
    assert frame["n"].dtype == np.int64
    assert frame["n"].map(lambda value: value % 2 == 1 or value == -(2**63)).mean() > 0.3


def test_dates_before_1677(run):
    rng = np.random.default_rng(0)
    days = [f"{year:04d}-03-{1 + year % 28:02d}" for year in rng.integers(800, 9999, 150)]
    frame = check_made(run, pd.DataFrame({"born": days, "b": list("xyz") * 50}))
    years = [value.year for value in frame["born"]]
    assert min(years) < 1677
    assert max(years) > 2262


def test_a_hundred_thousand_different_texts(difflm):
    table = pd.DataFrame({"b": list("xy") * 50_000})
    table["where"] = [f"street {(row * 7919) % 100_003}" for row in range(100_000)]
    table.to_csv("table.csv", index=False)
    code, out, _ = difflm("--quiet", "fit", "table.csv", "-o", "model", *SMALL_ARGUMENTS)
    assert (code, out) == (0, "model\n")
    code, _, err = difflm(
        "-q", "sample", "model", "-n", "20", "-o", "o.csv", "--max-attempts", "2000"
    )
    assert (code, err) == (0, "")
    assert pd.read_csv("o.csv")["where"].notna().all()


def test_a_large_number_of_identifiers_is_refused_before_work(people_run, difflm, monkeypatch):
    monkeypatch.setattr(IdentifierPattern, "capacity", 10)
    code, _, err = difflm("-q", "sample", str(people_run), "-n", "11", "-o", "o.csv")
    assert code == 2
    assert "gives 10 different identifiers, 11 rows were asked for; widen the pattern" in err
    assert not Path("o.csv").exists()


# ------------------------------------------------------------------------- folders and damage


def test_the_output_folder_of_another_run(run):
    assert run(plain())[0] == 0
    code, out, err = run(plain(110))
    assert (code, out) == (2, "")
    assert err == (
        "Error: out/corpus: serialize has finished here with other settings:\n"
        "  source table.csv: it has changed\n"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything.\n"
    )


def test_an_output_folder_with_files_of_somebody_else(run):
    Path("out/corpus").mkdir(parents=True)
    Path("out/corpus/thesis.txt").write_text("mine")
    code, _, err = run(plain())
    assert (code, err) == (
        2,
        "Error: out/corpus: this folder holds files that no stage wrote (thesis.txt). serialize "
        "writes only into an empty folder or its own. Choose another output folder.\n",
    )
    assert Path("out/corpus/thesis.txt").read_text() == "mine"


def test_an_output_folder_that_cannot_be_made(run):
    Path("out").write_text("a file")
    code, _, err = run(plain())
    assert (code, err) == (
        2,
        "Error: out/corpus: this folder cannot be made (Not a directory). Choose another one, or "
        "check what is there and who may write.\n",
    )


@pytest.mark.parametrize(
    ("file", "kind", "stage"),
    [
        ("corpus/train/part-00000.parquet", "Corpus", "serialize"),
        ("vae/vae.safetensors", "VaeCheckpoint", "train-vae"),
        ("latents/scaler.safetensors", "Latents", "extract-latents"),
        ("generator/codec/codec.json", "GeneratorBundle", "train-diffusion"),
        ("synthetic/part-00001.parquet", "SyntheticData", "generate"),
        ("report/report.html", "EvaluationReport", "evaluate"),
    ],
)
def test_a_truncated_artifact(people_run, difflm, tmp_path, file, kind, stage):
    # The run stands where it was made, so that its configuration is the same.
    shutil.copytree(people_run, tmp_path / "copy")
    config = tmp_path / "copy" / "run.yaml"
    damaged = tmp_path / "copy" / file
    size = damaged.stat().st_size
    damaged.write_bytes(damaged.read_bytes()[:-7])
    code, _, err = difflm("-q", "run", str(config), "--output", str(tmp_path / "copy"))
    folder, _, name = file.partition("/")
    assert (code, err) == (
        2,
        f"Error: {tmp_path}/copy/{folder}: the file {name} of this {kind} is truncated: found "
        f"{size - 7} bytes, expected {size}. Restore it, or run the stage {stage} again with "
        "--fresh.\n",
    )


def test_a_truncated_manifest(people_run, difflm, tmp_path):
    shutil.copytree(people_run / "generator", tmp_path / "model")
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_text(manifest.read_text()[:200])
    code, _, err = difflm("-q", "sample", "model", "-n", "1", "-o", "o.csv")
    assert (code, err) == (
        2,
        "Error: model/manifest.json: this manifest cannot be read; it is damaged, or of another "
        "version of this library. Run the stage that made it again with --fresh.\n",
    )


def test_a_fit_never_overwrites_a_model(difflm):
    plain().to_csv("table.csv", index=False)
    fit = ("-q", "fit", "table.csv", "-o", "model", *SMALL_ARGUMENTS)
    assert difflm(*fit)[0] == 0
    assert difflm(*fit) == (
        2,
        "",
        "Error: model: this folder holds a finished model. Choose another output folder, or add "
        "--fresh to train it anew.\n",
    )
    assert len(DiffLM.from_pretrained("model").sample(3)) == 3


# ---------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a size that can be changed: `small_disk(num_bytes)` gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        options = f"size={size}" if not folder.is_mount() else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system needs the rights of root")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(small_disk, difflm, tmp_path):
    disk = small_disk("256k")
    people_config(tmp_path)
    arguments = ("-q", "run", "run.yaml", "--output", str(disk / "run"))
    code, _, err = difflm(*arguments)
    assert code == 2
    assert err == (
        f"Error: {disk}/run/vae: no space is left for the output of train-vae. Free some, then run "
        "the same command again: what was written is kept, and it continues there.\n"
    )
    assert complete(disk) == ["corpus"]
    small_disk("64m")
    code, _, err = difflm(*arguments)
    assert (code, err) == (0, "")
    assert complete(disk) == ["corpus", "generator", "latents", "report", "synthetic", "vae"]


def test_a_sample_on_a_full_disk_leaves_nothing(small_disk, difflm, people_run):
    disk = small_disk("16k")
    sample = ("-q", "sample", str(people_run), "-n", "400", "--max-attempts", "1000")
    code, _, err = difflm(*sample, "-o", str(disk / "o.csv"))
    assert (code, err) == (
        2,
        f"Error: {disk}/o.csv: writing failed: No space left on device; nothing was left under "
        "this name; free space or check the permissions, and run again\n",
    )
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("moment", ["corpus/train/part-00000.parquet", "report/report.json"])
def test_a_full_disk_without_a_disk(difflm, tmp_path, monkeypatch, moment):
    """The same on any machine: writing one file fails as on a full disk."""
    import contextlib
    import errno
    import os

    from difflm_core import storage

    original = storage.atomic_output

    @contextlib.contextmanager
    def full(uri):
        with original(uri) as path:
            yield path
            if str(uri).endswith(moment):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    people_config(tmp_path)
    monkeypatch.setattr(storage, "atomic_output", full)
    code, _, err = difflm("-q", "run", "run.yaml")
    folder = moment.partition("/")[0]
    assert code == 2
    assert err.startswith(f"Error: {tmp_path}/run/{folder}: no space is left for the output of ")
    assert folder not in complete()
    monkeypatch.setattr(storage, "atomic_output", original)
    assert difflm("-q", "run", "run.yaml")[0] == 0
