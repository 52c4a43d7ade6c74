"""What the steps of a pipeline do, without Kubeflow."""

import json
import re

import pytest
import yaml

from components import dashboard, steps
from difflm_core.artifacts import Corpus, EvaluationReport
from difflm_core.errors import ArtifactError, ConfigError, DiffLMError, StageError
from tests.people import people_config


class Output:
    """An output artifact as Kubeflow hands it to a component."""

    def __init__(self, folder, name):
        self.uri = self.path = str(folder / name)
        self.metadata = {}

    def log_metric(self, metric, value):
        self.metadata[metric] = value


@pytest.fixture
def config(people_run, tmp_path):
    people_config(tmp_path, output="run")
    return str(tmp_path / "run.yaml")


def test_the_configuration_is_checked_and_written_down(config, tmp_path):
    made = steps.prepare(config, str(tmp_path / "run"), rows=70, seed=5)
    assert made.run == str(tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "pipeline.yaml").read_text())
    assert made.config == str(tmp_path / "run" / "pipeline.yaml")
    assert written["generation"]["num_rows"] == 70
    assert written["seed"] == 5
    assert written["output"] == made.run


def test_yaml_is_taken_as_it_is(config, tmp_path):
    text = (tmp_path / "run.yaml").read_text()
    made = steps.prepare(yaml.safe_dump(json.loads(text)), str(tmp_path / "r"))
    assert yaml.safe_load((tmp_path / "r" / "pipeline.yaml").read_text())["vae"]["width"] == 32
    assert made.run == str(tmp_path / "r")


def test_a_run_of_a_sweep_has_its_folder_and_its_changes(config, tmp_path):
    # Kubeflow hands on the numbers of a list as floats.
    changes = {"folder": "a", "seed": 3.0, "rows": 40.0}
    made = steps.prepare(config, str(tmp_path / "all"), changes=changes)
    written = yaml.safe_load((tmp_path / "all" / "a" / "pipeline.yaml").read_text())
    assert made.run == str(tmp_path / "all" / "a")
    assert (written["seed"], written["generation"]["num_rows"]) == (3, 40)
    assert written["data"]["target"] == "label"
    made = steps.prepare(config, str(tmp_path / "all"), changes={"seed": 4.0})
    assert made.run == str(tmp_path / "all" / "seed-4")
    with pytest.raises(ConfigError, match="has no folder: rows"):
        steps.prepare(config, str(tmp_path / "all"), changes={"rows": 4.0})
    with pytest.raises(ConfigError, match="sed: a run of a sweep has no such key"):
        steps.prepare(config, str(tmp_path / "all"), changes={"sed": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": "vae: {widht: 3}\n"}, "widht"),
        ({"config": "s3.yaml"}, "there is no such configuration file"),
        ({"config": ""}, "data.source is missing"),
        ({"data": "missing.csv"}, "missing.csv"),
        ({"where": {"backend": "rayjob"}}, r"run: .* share no files\. Expected a URI"),
        ({"run": "s3://b/run", "where": {"backend": "rayjob"}}, "data: .* share no files"),
    ],
)
def test_mistakes_end_the_first_step(config, tmp_path, values, message):
    arguments = {"config": config, "run": str(tmp_path / "run"), **values}
    with pytest.raises(DiffLMError, match=message):
        steps.prepare(**arguments)
    assert not (tmp_path / "run" / "pipeline.yaml").exists()


def test_an_error_ends_a_step_with_its_message_alone(capsys):
    with pytest.raises(SystemExit) as caught, steps.explained():
        raise StageError("generate: no luck")
    assert caught.value.code == 2
    assert capsys.readouterr().out == "Error: generate: no luck\n"


def test_a_stage_is_shown_where_it_lies(people_run, tmp_path):
    artifact = Corpus.open(str(people_run / "corpus"))
    shown, metrics, page = (Output(tmp_path, name) for name in ("artifact", "metrics", "page"))
    dashboard.show_artifact(artifact, shown, metrics, page)
    assert shown.uri == str(people_run / "corpus")
    assert shown.metadata["content_hash"] == artifact.manifest.content_hash
    assert metrics.metadata["duration_seconds"] > 0
    # Without a file, Kubeflow takes the output for missing.
    assert "duration_seconds=" in (tmp_path / "metrics").read_text()
    html = (tmp_path / "page").read_text()
    assert "<h1>Corpus</h1>" in html
    assert re.search("<th>num_train", html)


def test_the_page_of_the_evaluation_is_the_report(people_run, tmp_path):
    artifact = EvaluationReport.open(str(people_run / "report"))
    outputs = [Output(tmp_path, name) for name in ("artifact", "metrics", "page")]
    dashboard.show_artifact(artifact, *outputs)
    assert (tmp_path / "page").read_text() == (people_run / "report" / "report.html").read_text()


def test_quality_is_read_from_the_report(people_run):
    report = str(people_run / "report")
    assert not steps.check_quality(report, {"shape_error_percent": 0}).passed
    with pytest.raises(ArtifactError, match=r"expected an? EvaluationReport"):
        steps.check_quality(str(people_run / "corpus"), {})


def test_the_end_sums_up_what_there_is(people_run, config):
    where = {"backend": "local"}
    text = steps.finish("", str(people_run), "SUCCEEDED", None, where)
    assert "# Run succeeded" in text
    assert text.count("\n| ") == 7
    text = steps.finish("vae: {widht: 1}\n", "", "FAILED", "prepare failed", where)
    assert "# Run failed" in text
    assert "Error: prepare failed" in text
    assert "No stage has finished" in steps.finish(config, "", "FAILED", None, where)


def test_reports_side_by_side_with_mean_and_deviation(people_run):
    report = str(people_run / "report")
    text, means = steps.compare([report, report])
    summary = EvaluationReport.open(report).manifest.summary
    assert means["shape_error_percent"] == pytest.approx(summary["shape_error_percent"])
    assert "± 0" in text
    assert text.count(f"| {people_run.name} |") == 2
