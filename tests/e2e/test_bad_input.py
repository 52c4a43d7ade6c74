"""Bad input through the real command line: right behaviour, or one clear error and exit code 2."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from difflm_core.data.identifiers import IdentifierPattern
from tests.e2e.small_runs import SMALL_ARGUMENTS, complete, plain

pytestmark = pytest.mark.e2e


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
