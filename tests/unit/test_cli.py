import json
import re
import subprocess
import sys

import pytest

from difflm_core import stages
from difflm_core.cli import main
from difflm_core.cli.model_commands import fit_config
from difflm_core.config_file import config_markdown, load_config
from difflm_core.stages import pipeline
from tests.unit.toy_pipeline import TOY_STAGES


@pytest.fixture(autouse=True)
def _toy_stages(monkeypatch, tmp_path):
    """The command line with small stages, in an empty directory with a table and a run.yaml."""
    monkeypatch.setattr(stages, "load_stages", lambda: TOY_STAGES)
    monkeypatch.setattr(pipeline, "load_stages", lambda: TOY_STAGES)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("a\n1\n22\n")
    (tmp_path / "run.yaml").write_text("data: {source: data.csv}\noutput: out\n")


def words(text):
    """The text without the frames and line breaks of the help pages."""
    return re.sub(r"[\s│╭╮╰╯─*]+", " ", text)


# --------------------------------------------------------------------------------------- help


def test_help_lists_stages_and_teaches_with_examples(difflm):
    code, out, _ = difflm("--help")
    assert code == 0
    assert "difflm sample model/ -n 1000 -o out.parquet make new records" in words(out)
    for stage in TOY_STAGES:
        assert f"{stage.name} {stage.summary}" in words(out)


@pytest.mark.parametrize(
    ("command", "example"),
    [
        (("run",), "difflm run run.yaml --set generation.num_rows=100000 --output runs/large"),
        (("fit",), "difflm fit data.csv -o model/"),
        (("sample",), "difflm sample runs/adult/generator -n 50 -o out.csv --seed 7"),
        (
            ("sample",),
            "difflm sample model/ -n 50 -o out.csv --where sex=Female --where age=30..40",
        ),
        (("report",), "difflm report runs/adult"),
        (("config", "show"), "difflm config show run.yaml --set seed=3"),
        (("config", "validate"), "difflm config validate run.yaml"),
        (("schema", "infer"), "difflm schema infer data.csv -o schema.json --target income"),
        (("tools", "convert"), "difflm tools convert functions.jsonl tools.jsonl --to seal"),
        (
            ("train-diffusion",),
            "difflm train-diffusion --config run.yaml --latents URI --vae URI --output URI",
        ),
    ],
)
def test_each_help_page_has_an_example(difflm, command, example):
    code, out, _ = difflm(*command, "--help")
    assert code == 0
    assert example in words(out)


def test_version(difflm):
    code, out, _ = difflm("--version")
    assert code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", out)


def test_the_command_line_loads_nothing_heavy():
    heavy = "torch transformers pyarrow pandas numpy sklearn lightgbm xgboost ray kfp httpx".split()
    code = (
        "import sys, difflm_core.cli, difflm_core.stages.pipeline;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------- run


def test_run_makes_everything_and_prints_the_report(difflm):
    code, out, err = difflm("run", "run.yaml")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:8]] == [
        [stage.name, "done"] for stage in TOY_STAGES
    ]
    assert out.endswith("ratio  1\nrows   3\n\nReport: out/report/report.html\n")
    assert err.splitlines()[:2] == ["[1/6] serialize", "[2/6] train-vae"]
    assert "Training: 3/3 steps (100%)" in err


def test_a_second_run_reuses(difflm):
    difflm("run", "run.yaml")
    code, out, err = difflm("run", "run.yaml")
    assert code == 0
    assert out.count(" reused ") == 6
    assert "[2/6] train-vae (reuse)\n" in err


def test_output_and_overrides(difflm, tmp_path):
    code, out, _ = difflm("run", "run.yaml", "--output", "o", "--set", "generation.num_rows=6")
    assert code == 0
    assert "ratio  2\nrows   6\n" in out
    assert (tmp_path / "o" / "report" / "report.html").exists()
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(difflm, tmp_path):
    code, out, _ = difflm("run", "run.yaml", "--dry-run")
    assert code == 0
    assert out.splitlines()[1] == "run        train-vae        out/vae"
    assert len(out.splitlines()) == 6
    assert not (tmp_path / "out").exists()


def test_quiet_says_only_the_result(difflm):
    code, out, err = difflm("--quiet", "run", "run.yaml")
    assert (code, err) == (0, "")
    assert "Report: out/report/report.html" in out


def test_ctrl_c_says_how_to_go_on(difflm, monkeypatch):
    monkeypatch.setenv("TOY_STOP", "train-vae")
    code, _, err = difflm("run", "run.yaml", "--fresh", "--set", "data.missing_values=?")
    assert code == 130
    assert err.splitlines()[-1] == (
        "Stopped: What is finished is kept. Continue with: "
        "difflm run run.yaml --set 'data.missing_values=?'"
    )
    monkeypatch.delenv("TOY_STOP")
    code, out, _ = difflm("run", "run.yaml", "--set", "data.missing_values=?")
    assert code == 0
    assert "train-vae        continued" in out


def test_a_changed_setting_is_refused_then_replaced(difflm):
    difflm("run", "run.yaml")
    code, out, err = difflm("run", "run.yaml", "--set", "diffusion.batch_rows=7")
    assert (code, out) == (2, "")
    assert err == (
        "Error: out/generator: train-diffusion has finished here with other settings:\n"
        "  diffusion.batch_rows: 1024 -> 7\n"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything.\n"
    )
    changed = ("run", "run.yaml", "--set", "diffusion.batch_rows=7")
    code, out, _ = difflm(*changed, "--replace-changed")
    assert code == 0
    assert "extract-latents  reused" in out
    assert "train-diffusion  replaced" in out
    code, out, _ = difflm(*changed, "--fresh")
    assert code == 0
    assert out.count(" replaced ") == 6


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("run", "none.yaml"),
            "none.yaml: there is no such configuration file. Expected the path of a YAML file.",
        ),
        (
            ("run", "run.yaml", "--set", "generation.num_row=1"),
            "--set generation.num_row is not a known key. Did you mean generation.num_rows?",
        ),
        (
            ("run", "run.yaml", "--set", "data.source=[bold]none.csv"),
            "[bold]none.csv: there is no such file.",
        ),
        (
            ("report", "nowhere"),
            "nowhere/report: there is nothing here, expected an EvaluationReport.",
        ),
        (
            ("sample", "model", "-n", "3", "-o", "out.xlsx"),
            "out.xlsx: the suffix .xlsx is not a known format. Expected a name that ends with "
            ".parquet, .csv or .jsonl.",
        ),
        (
            ("sample", "model", "-n", "3", "-o", "out.csv", "--top-p", "2"),
            "difflm sample: generation.top_p = 2.0: expected a number above 0 and at most 1.",
        ),
        (
            ("train-vae", "--corpus", "nowhere", "--output", "vae"),
            "nowhere: there is nothing here, expected a Corpus.",
        ),
    ],
)
def test_an_error_of_the_user_is_one_message(difflm, argv, message):
    code, out, err = difflm("-q", *argv)
    assert (code, out, err) == (2, "", f"Error: {message}\n")


def test_a_missing_option_is_a_usage_error(difflm):
    code, _, err = difflm("train-vae", "--output", "vae")
    assert code == 2
    assert "Missing option '--corpus'" in words(err)


def test_a_defect_keeps_its_traceback(difflm, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a defect")

    monkeypatch.setattr(pipeline, "run_stage", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["run", "run.yaml"])


# ------------------------------------------------------------------------------- single stages


def test_stages_one_at_a_time_equal_a_run(difflm, tmp_path):
    difflm("run", "run.yaml")
    uris = {}
    for stage in TOY_STAGES:
        name = pipeline.FOLDERS[stage.output]
        uris[name] = f"single/{name}"
        code, out, _ = difflm(*stage.argv("run.yaml", uris, uris[name]))
        assert (code, out) == (0, f"single/{name}\n")
    for name in uris:
        run, single = (
            json.loads((tmp_path / root / name / "manifest.json").read_text())
            for root in ("out", "single")
        )
        assert run["content_hash"] == single["content_hash"]
        assert run["fingerprint"] == single["fingerprint"]


def test_a_single_stage_takes_overrides_and_fresh(difflm):
    difflm("run", "run.yaml")
    argv = ("generate", "--config", "run.yaml", "--generator", "out/generator", "-o", "synthetic")
    difflm(*argv)
    code, _, err = difflm(*argv, "--set", "generation.num_rows=2")
    assert code == 2
    assert "\n  generation.num_rows: null -> 2\n" in err
    code, out, _ = difflm(*argv, "--set", "generation.num_rows=2", "--fresh")
    assert (code, out) == (0, "synthetic\n")


# --------------------------------------------------------------------- fit, sample and report


def test_fit_writes_a_model(difflm, tmp_path):
    code, out, err = difflm("fit", "data.csv", "-o", "model", "--target", "a")
    assert (code, out) == (0, "model\n")
    assert (tmp_path / "model" / "manifest.json").exists()
    assert not (tmp_path / "model.run").exists()
    assert "[4/4] train-diffusion" in err


def test_fit_keeps_no_records_for_evaluation_unless_asked():
    config = fit_config("x.csv", "income", None, ["seed=3"])
    assert (config.data.source, config.data.target, config.seed) == ("x.csv", "income", 3)
    assert (config.data.test_fraction, config.data.valid_fraction) == (0.0, 0.05)
    asked = fit_config("x.csv", None, None, ["data.test_fraction=0.2", "data.target=b"])
    assert (asked.data.test_fraction, asked.data.target) == (0.2, "b")


def test_report_of_a_run_and_of_an_artifact(difflm):
    difflm("run", "run.yaml")
    expected = (0, "ratio  1\nrows   3\n\nReport: out/report/report.html\n", "")
    assert difflm("report", "out") == expected
    assert difflm("report", "out/report", "--open") == expected


# --------------------------------------------------------------------------- config and schema


def test_config_show_prints_what_leads_to_the_same_configuration(difflm, tmp_path):
    code, out, _ = difflm("config", "show", "run.yaml", "--set", "seed=3")
    assert code == 0
    (tmp_path / "shown.yaml").write_text(out)
    assert load_config("shown.yaml") == load_config("run.yaml", ["seed=3"])


def test_config_validate(difflm, tmp_path):
    assert difflm("config", "validate", "run.yaml") == (0, "run.yaml is valid.\n", "")
    (tmp_path / "bad.yaml").write_text("seed: x\n")
    assert difflm("config", "validate", "bad.yaml") == (
        2,
        "",
        "Error: bad.yaml: seed = 'x': expected an integer at least 0 and at most 2147483647.\n",
    )


def test_config_docs(difflm):
    assert difflm("config", "docs") == (0, config_markdown(), "")


def test_schema_infer_prints_or_writes(difflm, tmp_path):
    rows = "".join(f"{'yes' if row % 3 else 'no'},{row * 0.5}\n" for row in range(200))
    (tmp_path / "table.csv").write_text(f"label,amount\n{rows}")
    code, out, _ = difflm("schema", "infer", "table.csv", "--target", "label")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["label", "amount"]
    assert "target" in out.splitlines()[0]
    assert out.splitlines()[1].split()[1] == "float"
    code, out, _ = difflm("schema", "infer", "table.csv", "-o", "schema.json")
    assert (code, out) == (0, "schema.json\n")
    names = [c["name"] for c in json.loads((tmp_path / "schema.json").read_text())["columns"]]
    assert names == ["label", "amount"]
