import importlib.metadata

import pytest

from components.ray_launcher import RayLauncher, RayOptions
from difflm_core.config import RuntimeConfig
from difflm_core.errors import ConfigError
from difflm_core.launchers import GROUP, open_launcher
from difflm_core.parallel import LocalLauncher

RUNTIME = RuntimeConfig()


def test_local_is_this_process():
    with open_launcher("local", None, RUNTIME) as launcher:
        assert isinstance(launcher, LocalLauncher)


def test_ray_is_found_by_its_entry_point_and_not_started():
    with open_launcher("ray", "10.0.0.5:6379", RUNTIME) as launcher:
        assert isinstance(launcher, RayLauncher)
        assert launcher.options.address == "10.0.0.5:6379"


def test_the_settings_of_the_runtime_arrive():
    runtime = RuntimeConfig(num_workers=4, min_workers=2, threads=3, device="cpu")
    with open_launcher("ray", None, runtime) as launcher:
        assert launcher.options == RayOptions(threads=3, device="cpu", min_workers=2)


def test_an_unknown_launcher_is_refused():
    with pytest.raises(ConfigError) as caught:
        open_launcher("spark", None, RUNTIME)
    assert str(caught.value) == (
        "--on spark: there is no such launcher. Expected one of: local, ray."
    )


def test_an_address_without_a_cluster_is_refused():
    with pytest.raises(ConfigError, match=r"nothing to connect to on local\. Add --on ray\.$"):
        open_launcher("local", "10.0.0.5:6379", RUNTIME)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'difflm-on-ray\[ray\]'$"),
        open_launcher("ray", None, RUNTIME),
    ):
        pass


def test_without_a_module_of_the_launcher_the_message_says_what_to_install(monkeypatch):
    entry = importlib.metadata.EntryPoint("other", "no_such_module:factory", GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    with pytest.raises(ConfigError) as caught:
        open_launcher("other", None, RUNTIME)
    assert str(caught.value) == (
        "--on other: the module no_such_module is not installed here. Install what other needs: "
        "pip install 'difflm-on-ray[other]'"
    )
