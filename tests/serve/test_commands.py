"""What `difflm serve` refuses before it starts anything."""

import socket

import pytest

from components import commands


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/nowhere"], "there is no model here"),
        (["/nowhere", "--watch"], "there is no such folder"),
        (["MODEL", "--host", "0.0.0.0"], "--anonymous"),
        (["MODEL", "--replicas", "500"], "--replicas 500"),
        (["MODEL", "--keys", "nothing.yaml"], "there is no such file"),
        (["a=MODEL", "b=/nowhere"], "/nowhere: there is no model"),
    ],
)
def test_what_cannot_be_served_is_named(difflm, plain_model, argv, said):
    code, out, err = difflm("serve", *[word.replace("MODEL", plain_model) for word in argv])
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_a_port_in_use_is_named(difflm, plain_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = difflm("serve", plain_model, "--port", str(port))
    assert code == 2
    assert f"127.0.0.1:{port}" in err


def test_libraries_that_are_missing_are_named(difflm, plain_model, monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    code, _, err = difflm("serve", plain_model)
    assert code == 2
    assert "difflm-on-ray[ray,serve]" in err
