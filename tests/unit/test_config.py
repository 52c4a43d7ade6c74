import pytest
import yaml
from pydantic import ValidationError

from difflm_core.config import (
    CodecConfig,
    GenerateConfig,
    RunConfig,
    RuntimeConfig,
    SerializeConfig,
    VaeConfig,
)
from difflm_core.config_file import (
    build_config,
    config_markdown,
    flatten,
    known_keys,
    load_config,
    parse_override,
    to_yaml,
)
from difflm_core.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message_of(path=None, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_defaults_come_from_the_model():
    assert load_config() == RunConfig()


def test_precedence_is_defaults_then_file_then_overrides(tmp_path):
    path = write(tmp_path, "codec: {digit_base: 32, fit_rows: 1000}\nseed: 7\n")
    config = load_config(path, ["codec.digit_base=16", "generation.num_rows=5"])
    assert (config.codec.digit_base, config.codec.fit_rows, config.codec.shard_rows) == (
        16,
        1000,
        65_536,
    )
    assert (config.seed, config.generation.num_rows) == (7, 5)


def test_the_last_override_of_a_key_wins():
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2


def test_an_empty_section_and_an_empty_file_are_defaults(tmp_path):
    assert load_config(write(tmp_path, "vae:\ncodec:\n")) == RunConfig()
    assert load_config(write(tmp_path, "")) == RunConfig()


def test_scientific_numbers_without_a_point_are_numbers(tmp_path):
    config = load_config(write(tmp_path, "generation: {temperature: 5e-1}"))
    assert config.generation.temperature == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[?, N/A, -999]", ("?", "N/A", "-999")),
        ("'?'", ("?",)),
        ("[]", ()),
        ("NA", ("NA",)),
    ],
)
def test_missing_values_are_read_as_written(tmp_path, text, expected):
    path = write(tmp_path, f"data: {{missing_values: {text}}}")
    assert load_config(path).data.missing_values == expected


def test_an_override_of_a_question_mark_is_text():
    assert load_config(None, ["data.missing_values=?"]).data.missing_values == ("?",)


@pytest.mark.parametrize("separator", ["|", ";", "\\t", ":", "#"])
def test_an_override_of_punctuation_is_text(separator):
    value = parse_override(f"data.delimiter={separator}")[1]
    assert value == separator


def test_a_configuration_survives_its_own_yaml(tmp_path):
    config = load_config(None, ["data.missing_values=[?, x]", "data.column_names=[a, b]", "seed=3"])
    assert load_config(write(tmp_path, to_yaml(config))) == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 3


# --------------------------------------------------------------------------------- messages


def test_an_unknown_key_names_file_key_and_nearest(tmp_path):
    path = write(tmp_path, "generation: {num_row: 3}")
    assert message_of(path) == (
        f"{path}: generation.num_row is not a known key. Did you mean generation.num_rows?"
    )


def test_an_unknown_section_names_the_nearest_section(tmp_path):
    path = write(tmp_path, "generatoin: {num_rows: 3}")
    assert message_of(path) == f"{path}: generatoin is not a known key. Did you mean generation?"


def test_a_key_in_the_wrong_section_is_found_in_its_own():
    assert message_of(None, ["data.digit_base=3"]) == (
        "--set data.digit_base is not a known key. Did you mean codec.digit_base?"
    )


def test_an_unknown_key_with_nothing_near_lists_the_known_keys():
    assert message_of(None, ["latents.zzzzzzzzz=3"]) == (
        "--set latents.zzzzzzzzz is not a known key. Known keys of latents: "
        + ", ".join(key.partition(".")[2] for key in known_keys() if key.startswith("latents."))
        + "."
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "generation.num_rows=many",
            "--set generation.num_rows = 'many': expected an integer at least 1 or null.",
        ),
        (
            "generation.num_rows=0",
            "--set generation.num_rows = 0: expected an integer at least 1 or null.",
        ),
        (
            "generation.top_p=1.5",
            "--set generation.top_p = 1.5: expected a number above 0 and at most 1.",
        ),
        (
            "generation.format=xlsx",
            "--set generation.format = 'xlsx': expected one of parquet, csv, jsonl.",
        ),
        (
            "runtime.device=gpu",
            "--set runtime.device = 'gpu': expected text such as auto, cpu, mps, cuda, cuda:0.",
        ),
        (
            "data.delimiter=;;",
            "--set data.delimiter = ';;': expected one character or null.",
        ),
        (
            "data.column_names=[a, [b]]",
            "--set data.column_names = ['a', ['b']]: expected a list of texts or null.",
        ),
        ("data=3", "--set data = 3: expected a section with keys, found a number."),
        ("seed=-1", "--set seed = -1: expected an integer at least 0 and at most 2147483647."),
        (
            "data.valid_fraction=0.95",
            "--set data: valid_fraction 0.95 and test_fraction 0.1 leave no records to train on; "
            "together they must stay below 1.",
        ),
        (
            "runtime.min_workers=2",
            "--set runtime: min_workers 2 is more than num_workers 1.",
        ),
        (
            "nonsense",
            "--set nonsense: expected section.key=value, such as --set generation.num_rows=1000.",
        ),
        (
            "seed.x=3",
            "--set seed = {'x': 3}: expected an integer at least 0 and at most 2147483647.",
        ),
    ],
)
def test_a_wrong_override_says_what_was_found_and_expected(override, message):
    assert message_of(None, [override]) == message


def test_a_wrong_value_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path, "codec: {digit_base: 1}\nseed: x\n")
    assert message_of(path) == (
        f"{path}: codec.digit_base = 1: expected an integer at least 2 and at most 1024.\n"
        f"{path}: seed = 'x': expected an integer at least 0 and at most 2147483647."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "runtime: {zero_stage: 2}",
            "runtime.zero_stage 2 does not go with vae.optimizer 'muon', which needs whole "
            "matrices; set vae.optimizer to 'adamw', or runtime.zero_stage to 0.",
        ),
        (
            "runtime: {activation_checkpointing: true}\nvae: {injection: kv_memory}",
            "runtime.activation_checkpointing does not go with vae.injection 'kv_memory'; set it "
            "to false, or vae.injection to 'soft_prompt'.",
        ),
    ],
)
def test_settings_of_two_sections_that_do_not_go_together(tmp_path, text, message):
    path = write(tmp_path, text)
    assert message_of(path) == f"{path}: {message}"
    assert message_of(path, ["seed=1"]) == f"{path}: {message}"


def test_a_missing_file(tmp_path):
    path = str(tmp_path / "none.yaml")
    assert message_of(path) == (
        f"{path}: there is no such configuration file. Expected the path of a YAML file."
    )


def test_a_directory_as_file(tmp_path):
    assert message_of(str(tmp_path)) == f"{tmp_path}: this is a directory. Expected a YAML file."


def test_a_binary_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert message_of(str(path)) == f"{path}: this is not a text file. Expected YAML in UTF-8."


def test_broken_yaml_names_the_line(tmp_path):
    path = write(tmp_path, "seed: 1\ndata: {source: [}\n")
    assert message_of(path).startswith(f"{path}: line 2, column 17: this is not valid YAML: ")


def test_a_key_that_stands_twice(tmp_path):
    path = write(tmp_path, "seed: 1\nseed: 2\n")
    assert message_of(path) == (
        f"{path}: line 2, column 1: this is not valid YAML: the key 'seed' stands twice."
    )


def test_a_list_at_the_top(tmp_path):
    path = write(tmp_path, "- 1\n")
    assert message_of(path) == (
        f"{path}: found a list at the top level, expected sections such as `data:`."
    )


def test_no_source():
    with pytest.raises(ConfigError) as caught:
        RunConfig().require_source("run.yaml")
    assert str(caught.value) == (
        "run.yaml: data.source is missing. Expected a path, a glob or a URI of CSV, TSV, JSONL or "
        "Parquet files. Add `data: {source: my.csv}` or `--set data.source=my.csv`."
    )


def test_a_test_source_frees_the_test_fraction():
    values = {"data": {"valid_fraction": 0.95, "test_source": "test.csv"}}
    assert build_config(values).data.valid_fraction == 0.95


# --------------------------------------------------------------------------------- sections


def test_each_stage_gets_its_section():
    config = load_config(None, ["codec.digit_base=8", "data.source=a.csv", "generation.top_p=0.5"])
    serialize = config.section(SerializeConfig)
    assert (serialize.data, serialize.codec) == (config.data, CodecConfig(digit_base=8))
    assert config.section(GenerateConfig) is config.generation
    assert config.section(VaeConfig) is config.vae


def test_an_unknown_section_type_is_an_error():
    class OtherConfig(RuntimeConfig):
        pass

    with pytest.raises(ConfigError, match="has the type OtherConfig"):
        RunConfig().section(OtherConfig)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
        "f": {},
    }


# ---------------------------------------------------------------------------- documentation


def test_every_key_is_described():
    undescribed = [key for key, field in known_keys().items() if not field.description]
    assert undescribed == []


def test_the_reference_has_a_row_for_every_key():
    rows = [line for line in config_markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [
        *[key for key in known_keys() if "." not in key],
        *[key.partition(".")[2] for key in known_keys() if "." in key],
    ]
    assert "| `digit_base` | `64` | an integer at least 2 and at most 1024 |" in "\n".join(rows)


def test_the_yaml_holds_every_key():
    assert set(flatten(yaml.safe_load(to_yaml(RunConfig())))) == set(known_keys())
