"""Which models a service has, and how they come, change and go."""

import json
import shutil
from pathlib import Path

import pytest

from components.serving.registry import (
    GENERATOR_FOLDER,
    ModelRef,
    Registry,
    find_models,
    read_model,
)
from components.serving.worker import Refusal, Worker
from difflm_core.errors import ConfigError
from difflm_core.generation.generator import Generator
from tests.serve.servers import make_service, served, wait_until

TYPED_COLUMNS = ("kind", "day", "at", "count", "size", "good")


def copy(source, folder):
    """A copy of a model under another name."""
    return shutil.copytree(source, folder)


def replace(source, folder):
    """Put another model in place of one, as a pipeline does: the manifest last."""
    manifest = folder / "manifest.json"
    manifest.unlink()
    shutil.copytree(
        source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
    )
    shutil.copyfile(f"{source}/manifest.json", manifest)


def version_of(uri):
    return json.loads(Path(uri, "manifest.json").read_text())["content_hash"][:12]


def test_places_of_models(plain_run, plain_model, typed_model, tmp_path):
    assert find_models([plain_model]) == {"run": plain_model}
    assert find_models([str(plain_run)]) == {"run": plain_model}
    assert find_models([f"{plain_run}/"]) == {"run": plain_model}
    assert find_models([f"people={plain_run}"]) == {"people": plain_model}
    assert find_models([f"a={plain_run}", f"b={plain_model}", typed_model]) == {
        "a": plain_model,
        "b": plain_model,
        "model": typed_model,
    }
    copy(typed_model, tmp_path / "typed")
    copy(plain_model, tmp_path / "plain" / GENERATOR_FOLDER)
    (tmp_path / "notes.txt").write_text("notes")
    shutil.copytree(plain_run / "report", tmp_path / "report")
    assert find_models([str(tmp_path)]) == {
        "plain": str(tmp_path / "plain" / GENERATOR_FOLDER),
        "typed": str(tmp_path / "typed"),
    }


def test_a_folder_with_an_equals_sign_is_no_name(typed_model, tmp_path):
    folder = copy(typed_model, tmp_path / "seed=1")
    assert find_models([str(folder)]) == {"seed=1": str(folder)}


def test_no_model(plain_run, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", plain_run / "report"):
        with pytest.raises(ConfigError) as caught:
            find_models([str(place)])
        assert str(caught.value) == (
            f"{place}: there is no model here. Expected the folder of a model (`difflm fit`), of "
            "a run (`difflm run`), or a folder that holds some."
        )


def test_two_models_of_one_name(plain_model, typed_model, tmp_path):
    first, second = (copy(typed_model, tmp_path / place / "model") for place in "ab")
    with pytest.raises(ConfigError) as caught:
        find_models([str(first), str(second)])
    assert str(caught.value) == (
        f"Two models are called 'model': {first} and {second}. Name one of them: NAME={second}"
    )
    assert find_models([str(first), str(first)]) == {"model": str(first)}


def test_the_quality_of_a_run(plain_run, plain_model, typed_model):
    model = read_model("people", plain_model)
    report = json.loads((plain_run / "report" / "report.json").read_text())["verdict"]
    assert model.quality.light == report["light"]
    assert model.quality.headline == report["headline"] == model.summary.headline
    assert [f.title for f in model.quality.findings] == [f["title"] for f in report["findings"]]
    assert read_model("typed", typed_model).quality is None
    assert model.ref.version == version_of(plain_model)
    assert model.num_training_rows == 225


def test_the_report_of_another_generator_is_not_its_quality(plain_run, typed_model, tmp_path):
    run = tmp_path / "run"
    for name in ("report", "synthetic"):
        shutil.copytree(plain_run / name, run / name)
    copy(typed_model, run / GENERATOR_FOLDER)
    model = read_model("typed", str(run / GENERATOR_FOLDER))
    assert (model.quality, model.summary.headline) == (None, None)


def test_a_report_that_comes_later_is_seen(plain_run, plain_model, tmp_path):
    run = tmp_path / "run"
    copy(plain_model, run / GENERATOR_FOLDER)
    registry = Registry({"people": str(run / GENERATOR_FOLDER)})
    assert [model.quality for model in registry.refresh()] == [None]
    for name in ("synthetic", "report"):
        shutil.copytree(plain_run / name, run / name)
    (seen,) = registry.refresh()
    assert seen.quality is not None
    assert registry.refresh() == []


def test_models_come_change_and_go(plain_model, typed_model, tmp_path, caplog):
    registry = Registry({}, [str(tmp_path)])
    assert (registry.refresh(), registry.models) == ([], {})
    folder = copy(plain_model, tmp_path / "m")
    (fresh,) = registry.refresh()
    assert (fresh.ref.id, fresh.ref.version) == ("m", version_of(plain_model))
    assert registry.refresh() == []
    replace(typed_model, folder)
    (fresh,) = registry.refresh()
    assert fresh.ref.version == version_of(typed_model) != version_of(plain_model)
    other = copy(plain_model, tmp_path / "n")
    assert [model.ref.id for model in registry.refresh()] == ["n"]
    shutil.rmtree(folder)
    assert registry.refresh() == []
    assert list(registry.models) == ["n"]
    assert not caplog.records
    for half in ("{", None):  # it is being replaced
        (other / "manifest.json").unlink()
        if half:
            (other / "manifest.json").write_text(half)
        assert registry.refresh() == []
        assert list(registry.models) == ["n"]
    shutil.rmtree(other)
    assert registry.refresh() == []
    assert registry.models == {}


def test_a_damaged_model_keeps_its_last_version(plain_model, typed_model, tmp_path, caplog):
    folder = copy(plain_model, tmp_path / "m")
    registry = Registry({"m": str(folder)})
    (model,) = registry.refresh()
    (folder / "manifest.json").write_text("{")
    for _ in range(2):
        assert registry.refresh() == []
    assert registry.models == {"m": model}
    warned = [m for m in caplog.messages if m.startswith("model m cannot be read: ")]
    assert len(warned) == 1  # not every time
    assert list(registry.failures) == ["m"]
    shutil.copyfile(f"{plain_model}/manifest.json", folder / "manifest.json")
    assert registry.refresh() == []
    assert registry.failures == {}


def test_a_model_that_moved_is_read_where_it_is(plain_model, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    folder = copy(plain_model, first / "m")
    second.mkdir()
    registry = Registry({}, [str(first), str(second)])
    registry.refresh()
    folder.rename(second / "m")
    assert [model.ref.uri for model in registry.refresh()] == [str(second / "m")]


def test_a_replica_loads_the_version_it_is_asked_for(plain_model, tmp_path):
    worker = Worker(1)
    try:
        version = version_of(plain_model)
        assert isinstance(worker.load(ModelRef("m", version, plain_model)), Generator)
        assert worker.load(ModelRef("m", "0" * 12, plain_model)) == Refusal(
            "unavailable", "m has just been replaced; ask again."
        )
        damaged = copy(plain_model, tmp_path / "m")
        (damaged / "vae.safetensors").write_bytes(b"")
        for uri in (str(damaged), str(tmp_path / "nowhere")):
            assert worker.load(ModelRef("m", version, uri)) == Refusal(
                "unavailable", "m cannot be read at the moment; ask again."
            )
    finally:
        worker.close()


def test_a_replaced_model_is_served_while_old_answers_go_on(
    plain_model, typed_model, tmp_path, server
):
    generators = server.generators
    folder = copy(plain_model, tmp_path / "m")
    service = make_service({}, generators=generators, folders=[str(tmp_path)])
    with served(service, refresh_seconds=0.05) as running:

        def version():
            return running.client.get("/v1/models/m").json()["version"]

        old, new = version_of(plain_model), version_of(typed_model)
        assert version() == old
        whole = running.generate("m", count=4096, seed=1, format="csv")
        generators.held_from = 2048
        body = {"count": 4096, "seed": 1, "format": "csv"}
        with running.client.stream("POST", "/v1/models/m/generate", json=body) as response:
            chunks = response.iter_raw()
            data = next(chunks)
            # Half of the new one: the old one stays.
            manifest = (folder / "manifest.json").read_bytes()
            shutil.copytree(
                typed_model,
                folder,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("manifest.json"),
            )
            (folder / "manifest.json").write_bytes(manifest[: len(manifest) // 2])
            generators.held_from = None
            assert running.generate("m", count=1).headers["x-model-version"] == old
            generators.held_from = 2048
            shutil.copyfile(f"{typed_model}/manifest.json", folder / "manifest.json")
            wait_until(lambda: version() == new)
            answer = running.generate("m", count=1, seed=1)
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, new)
            assert answer.json()["version"] == new
            assert set(answer.json()["rows"][0]) == set(TYPED_COLUMNS)
            generators.held_from = None
            data += b"".join(chunks)
            assert response.headers["x-model-version"] == old
        assert data == whole.content
        text = running.client.get("/metrics").text
        assert f'difflm_model_info{{model="m",version="{new}"}} 1.0' in text
        assert old not in text
        shutil.rmtree(folder)
        wait_until(lambda: running.client.get("/v1/models").json() == {"models": []})
        assert running.generate("m", count=1).status_code == 404
