"""Output folders of others, and damaged artifacts: one clear error, nothing lost."""

import shutil
from pathlib import Path

import pytest

from difflm_core.api import DiffLM
from tests.e2e.small_runs import SMALL_ARGUMENTS, plain

pytestmark = pytest.mark.e2e


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
