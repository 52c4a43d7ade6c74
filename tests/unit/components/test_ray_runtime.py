import os
import re
import sys
import types
from pathlib import Path

import pytest

from components import ray_runtime as module
from components.ray_runtime import ray_runtime
from difflm_core.errors import ConfigError, StageError


@pytest.fixture
def fake_ray(monkeypatch):
    """A module `ray` that notes how it is started."""
    calls = []
    ray = types.ModuleType("ray")
    ray.__version__ = "9.9"
    ray.init = lambda **options: calls.append(("init", options))
    ray.shutdown = lambda: calls.append(("shutdown", {}))
    private = types.ModuleType("ray._private")
    private.ray_constants = types.SimpleNamespace(ENABLE_RAY_CLUSTER=False)
    private.worker = types.SimpleNamespace(print_to_stdstream=print)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray._private", private)
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        # Set first, so that what the code sets is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    ray.calls, ray.private = calls, private
    return ray


def test_without_an_address_an_embedded_ray_is_started_and_stopped(fake_ray):
    with ray_runtime() as runtime:
        assert runtime.embedded
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert re.fullmatch("[0-9a-f]{64}", os.environ["RAY_AUTH_TOKEN"])
        options = fake_ray.calls[0][1]
        assert options["_node_ip_address"] == "127.0.0.1"
        assert options["num_cpus"] >= 4
        folder = Path(options["_temp_dir"]).parent
        assert len(options["_temp_dir"]) <= 40
        assert folder.stat().st_mode & 0o077 == 0
    assert [name for name, _ in fake_ray.calls] == ["init", "shutdown"]
    assert not folder.exists()


def test_logs_stay_when_a_message_names_them(fake_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_short_folder", lambda: tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    with ray_runtime() as runtime:
        runtime.keep_logs = True
    assert (tmp_path / "kept").exists()


def test_a_long_folder_for_temporary_files_is_avoided(fake_ray, monkeypatch):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: "/var/folders/" + 40 * "x")
    with ray_runtime():
        assert fake_ray.calls[0][1]["_temp_dir"].startswith("/tmp/difflm-ray-")


def test_the_address_of_the_environment_is_used(fake_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    with ray_runtime() as runtime:
        assert not runtime.embedded
        assert fake_ray.calls[0][1]["address"] == "10.0.0.5:6379"
        # The settings of an embedded Ray would cut this process off from the cluster.
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
        assert "RAY_AUTH_MODE" not in os.environ


def test_the_code_of_this_process_goes_to_a_cluster_except_in_a_job(fake_ray, monkeypatch):
    with ray_runtime("10.0.0.5:6379"):
        pass
    modules = fake_ray.calls[0][1]["runtime_env"]["py_modules"]
    assert [module.__name__ for module in modules] == ["difflm_core", "components"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    fake_ray.calls.clear()
    with ray_runtime("10.0.0.5:6379"):
        assert fake_ray.calls[0][1]["runtime_env"] is None


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_an_address_of_another_kind_is_refused(fake_ray, address):
    with pytest.raises(ConfigError, match=r"Expected host:port, such as 10\.0\.0\.5:6379"):
        ray_runtime(address).__enter__()
    assert fake_ray.calls == []


def test_a_cluster_that_does_not_answer_is_one_message(fake_ray):
    def refuse(**options):
        raise ConnectionError("Nobody there.\nA wall\nof text")

    fake_ray.init = refuse
    with pytest.raises(StageError) as caught, ray_runtime("10.0.0.5:6379"):
        pass
    assert str(caught.value).startswith(
        "10.0.0.5:6379: no Ray cluster could be reached here: Nobody there. Expected host:port "
    )


def test_a_ray_that_would_listen_everywhere_is_not_started(fake_ray):
    fake_ray.private.ray_constants.ENABLE_RAY_CLUSTER = True
    with pytest.raises(StageError, match="would listen on all network interfaces"):
        ray_runtime().__enter__()
    assert fake_ray.calls == []


def test_what_ray_would_print_is_logged(fake_ray, capsys):
    with ray_runtime():
        fake_ray.private.worker.print_to_stdstream({"pid": "raylet", "lines": ["died"]}, False)
    assert capsys.readouterr().out == ""
    assert fake_ray.private.worker.print_to_stdstream is print
