"""Where API keys are kept, and the command that makes them."""

import datetime
import stat

import pytest
import yaml

from components.serving.keys import ApiKey, add_key, hash_key, make_entry, read_keys
from difflm_core.errors import ConfigError


def entry(name="a", key="k", **values):
    return {"name": name, "sha256": hash_key(key), **values}


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_file_of_keys(tmp_path):
    text = f"""
keys:
  - name: analytics
    sha256: {hash_key("secret")}
    models: [adult]
    requests_per_minute: 60
    rows_per_day: 1000000
    expires: 2027-01-31
  - name: other
    sha256: {hash_key("more")}
"""
    path = write(tmp_path / "keys.yaml", text)
    assert read_keys(path, {}) == [
        ApiKey(
            name="analytics",
            sha256=hash_key("secret"),
            models=("adult",),
            requests_per_minute=60,
            rows_per_day=1_000_000,
            expires=datetime.date(2027, 1, 31),
        ),
        ApiKey(name="other", sha256=hash_key("more")),
    ]


SHAPE = "; expected `keys:` with a list of name, sha256 and limits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"content: Input should be a valid dictionary or instance of _KeyFile{SHAPE}"),
        ({"keys": []}, "keys: Tuple should have at least 1 item after validation, not 0" + SHAPE),
        ({"kyes": []}, f"keys: Field required{SHAPE}"),
        ({"keys": [{"name": "a"}]}, f"keys.0.sha256: Field required{SHAPE}"),
        (
            {"keys": [entry(), entry("b c")]},
            "keys.1.name: String should match pattern '^[A-Za-z0-9._-]{1,64}$'" + SHAPE,
        ),
        (
            {"keys": [{"name": "a", "sha256": "dlm_secret"}]},
            f"keys.0.sha256: String should match pattern '^[0-9a-f]{{64}}$'{SHAPE}",
        ),
        (
            {"keys": [entry(rows_per_day=0)]},
            f"keys.0.rows_per_day: Input should be greater than or equal to 1{SHAPE}",
        ),
        ({"keys": [entry(row=1)]}, f"keys.0.row: Extra inputs are not permitted{SHAPE}"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, message):
    path = write(tmp_path / "keys.yaml", content)
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {})
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_cannot_be_read(tmp_path):
    missing = str(tmp_path / "keys.yaml")
    with pytest.raises(ConfigError) as caught:
        read_keys(missing, {})
    assert str(caught.value) == (
        f"{missing}: there is no such file; expected API keys. Make one: difflm key NAME --file "
        f"{missing}"
    )
    with pytest.raises(ConfigError) as caught:
        read_keys(str(tmp_path), {})
    assert str(caught.value) == (
        f"{tmp_path}: cannot be read (Is a directory); expected a file of API keys"
    )
    for content in (b"keys: [", b"\xff\xfe\x00"):
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml: not readable as YAML: "):
            read_keys(str(path), {})


def test_names_and_keys_are_there_once(tmp_path):
    path = write(tmp_path / "keys.yaml", {"keys": [entry("a", "1")]})
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {"DIFFLM_API_KEYS": f"a:{hash_key('2')}"})
    assert str(caught.value) == "API keys: the name 'a' is there twice; rename one"
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {"DIFFLM_API_KEYS": f"b:{hash_key('1')}"})
    assert str(caught.value) == "API keys: 'a' and 'b' are the same key; make another one"


def test_keys_in_the_environment():
    text = f"a:{hash_key('1')}, b:{hash_key('2')}\nc:{hash_key('3')},"
    assert [key.name for key in read_keys(None, {"DIFFLM_API_KEYS": text})] == ["a", "b", "c"]
    assert read_keys(None, {}) == []
    for wrong in ("a", "a:b", f"a b:{hash_key('1')}", f":{hash_key('1')}"):
        with pytest.raises(ConfigError) as caught:
            read_keys(None, {"DIFFLM_API_KEYS": wrong})
        assert str(caught.value) == (
            "DIFFLM_API_KEYS: an entry is not name:sha256 (64 hexadecimal digits); expected such "
            "entries separated by commas"
        )


def test_the_command_makes_a_key(difflm, tmp_path):
    path = tmp_path / "keys.yaml"
    options = ("--model", "adult", "--requests-per-minute", "6", "--rows-per-day", "9")
    code, out, err = difflm(
        "key", "first", "--file", str(path), *options, "--expires", "2030-01-31"
    )
    secret = out.strip()
    assert (code, out.count("\n"), secret[:4]) == (0, 1, "dlm_")
    assert len(secret) >= 40
    assert err == f"Added first to {path}. The key, shown this once:\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_text()
    assert secret not in content
    assert yaml.safe_load(content) == {
        "keys": [
            {
                "name": "first",
                "sha256": hash_key(secret),
                "models": ["adult"],
                "requests_per_minute": 6,
                "rows_per_day": 9,
                "expires": "2030-01-31",
            }
        ]
    }
    code, other, _ = difflm("key", "second", "--file", str(path))
    assert (code, other != out) == (0, True)
    assert [key.name for key in read_keys(str(path), {})] == ["first", "second"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys.yaml"]


def test_the_command_refuses(difflm, tmp_path):
    path = tmp_path / "keys.yaml"
    assert difflm("key", "a", "--file", str(path))[0] == 0
    before = path.read_bytes()
    code, out, err = difflm("key", "a", "--file", str(path))
    assert (code, out) == (2, "")
    assert "there is a key 'a' already; remove it first" in " ".join(err.split())
    for wrong in (("b c",), ("b", "--expires", "soon"), ("b", "--rows-per-day", "0")):
        assert difflm("key", *wrong, "--file", str(path))[0] == 2
    assert path.read_bytes() == before


def test_without_a_file_the_entry_is_shown(difflm):
    code, out, err = difflm("key", "a")
    assert code == 0
    assert yaml.safe_load(err) == {"keys": [{"name": "a", "sha256": hash_key(out.strip())}]}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "keys.yaml"
    write(path, {"keys": [entry()]})
    path.chmod(0o644)
    stale = tmp_path / ".keys.yaml.new"
    stale.write_text("")
    stale.chmod(0o644)
    add_key(path, make_entry("b", "2"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
