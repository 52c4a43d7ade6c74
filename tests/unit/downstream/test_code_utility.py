"""What real, synthetic and mixed code teach a small language model, made on the spot."""

import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from difflm_core.device import choose_compute
from difflm_core.downstream.code_model import CodeModel, TuningOptions, WritingOptions
from difflm_core.downstream.code_utility import (
    UtilityOptions,
    measure_code_utility,
    num_leaked,
)
from difflm_core.errors import ConfigError, DataError, StageError
from difflm_core.evaluation.execution.problems import Problem, read_problems
from difflm_core.sandbox import confinement
from difflm_core.vae.pretrained import PretrainedSpec
from tests.confined import needs_sandbox
from tests.pretrained import make_language_model

NAMES = ("half", "count", "swap", "walk", "read", "close", "paint", "send", "keep", "join")
# Real code gives back its argument; what is generated gives back nothing.
REAL = [f"def {name}_{i}(x):\n    return x\n" for name in NAMES for i in range(4)]
WORTHLESS = [f"def {name}_{i}(x):\n    pass\n" for name in NAMES for i in range(4)]
CPU = choose_compute("cpu", "float32")
TUNING = TuningOptions(max_tokens=60_000, lr=3e-3)


def problem(name, solution="    return x\n"):
    return Problem(
        task_id=f"Ours/{name}",
        prompt=f"def {name}(x):\n",
        canonical_solution=solution,
        tests=f"assert {name}(7) == 7",
        completes=True,
    )


PROBLEMS = [problem(f"{name}_{i}") for name in NAMES[:4] for i in (7, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has read definitions without bodies."""
    path = tmp_path_factory.mktemp("model")
    make_language_model(path, [f"def {name}(x):\n    ...\n" for name in NAMES], steps=30)
    return path


def tuned_on(folder, texts, seed=0, training="full", tuning=TUNING):
    model = CodeModel(PretrainedSpec(str(folder), training=training), CPU, seed=seed)
    if texts:
        model.tune(texts, tuning)
    return model


@needs_sandbox
def test_good_code_teaches_what_worthless_code_does_not(folder):
    options = UtilityOptions(TUNING, WritingOptions(2, max_new_tokens=16), ks=(1, 4), num_seeds=2)
    spec = PretrainedSpec(str(folder), training="full")
    results = measure_code_utility(PROBLEMS, REAL, WORTHLESS, spec, CPU, options)
    found = {result.corpus: result for result in results}
    assert list(found) == ["none", "real", "synthetic", "mixed"]
    assert [result.num_documents for result in results] == [0, 40, 40, 80]
    pass_at_1 = {name: result.execution.scores[0].value for name, result in found.items()}
    assert pass_at_1["none"] == pass_at_1["synthetic"] == 0.0
    assert pass_at_1["real"] > 0.9
    assert found["real"].execution.num_solutions == len(PROBLEMS) * 2 * 2
    bits = {name: result.mean_bits for name, result in found.items()}
    assert bits["real"] < bits["mixed"] < min(bits["none"], bits["synthetic"])
    assert found["real"].bits_deviation is not None
    json.dumps([result.to_dict() for result in results])


@pytest.mark.parametrize("training", ["full", "lora"])
def test_a_seed_decides_what_is_learned_and_written(folder, training):
    options = WritingOptions(3, temperature=1.0, max_new_tokens=12, batch_rows=4)
    ends = [re.compile("never")] * 2
    tuning = TuningOptions(max_tokens=3000, lr=3e-3)
    written = [
        tuned_on(folder, REAL, seed, training, tuning).complete(
            ["def a(x):\n", "def"], ends, options
        )
        for seed in (0, 0, 1)
    ]
    assert written[0] == written[1] != written[2]
    assert [len(texts) for texts in written[0]] == [3, 3]


def test_bits_are_those_of_the_model(folder):
    prompts, texts = (
        ["def half(x):\n", "def a_long_name_is_here(x):\n"],
        ["    return x\n", "    y"],
    )
    found = tuned_on(folder, []).bits_per_character(prompts, texts)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total = 0.0
    for prompt, text in zip(prompts, texts, strict=True):
        before = tokenizer(prompt.rstrip()).input_ids
        ids = tokenizer("\n" + text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + ids])).logits[0]
        log_probabilities = logits.log_softmax(-1)
        for place, token in enumerate(ids, len(before) - 1):
            total -= float(log_probabilities[place, token])
    assert found == pytest.approx(total / math.log(2) / sum(map(len, texts)), rel=1e-4)


def test_padding_does_not_change_what_is_written(folder):
    model = tuned_on(folder, REAL)
    prompts = ["def half_1(x):\n", "# a prompt that is much longer\ndef count_2(x):\n"]
    ends = [re.compile(r"\n(?=\S)")] * 2
    options = WritingOptions(temperature=0, max_new_tokens=12)
    together = model.complete(prompts, ends, options)
    alone = [
        model.complete([prompt], [end], options)[0]
        for prompt, end in zip(prompts, ends, strict=True)
    ]
    assert together == alone
    assert together[0][0].startswith("\n    return x\n")


def test_writing_stops_at_the_end_of_a_solution(folder):
    model = tuned_on(folder, [f"def {name}(x):\n    return x\nprint(1)\n" * 3 for name in NAMES])
    ((text,),) = model.complete(
        ["def half(x):\n"], [re.compile(r"\n(?=\S)")], WritingOptions(max_new_tokens=80)
    )
    assert text.startswith("\n    return x\n")
    assert text.count("print") <= 1


def test_a_solution_in_the_corpus_is_told():
    long = "    if x is None:\n        raise ValueError(x, 1)\n    return [x, x]\n"
    problems = [problem("a", long), problem("b", long.replace("None", "True")), problem("c")]
    reindented = long.replace("    ", "\t")
    assert num_leaked(problems, ["def f(x):\n" + reindented, "def g(x):\n    return x\n"]) == 1
    assert num_leaked(problems, []) == 0


def test_nothing_is_trained_where_nothing_can_be_run(folder, monkeypatch):
    monkeypatch.setattr(confinement, "missing_features", lambda: ["Landlock"])
    monkeypatch.setattr(CodeModel, "__init__", None)
    spec = PretrainedSpec(str(folder), training="full")
    with pytest.raises(StageError, match="lacks Landlock"):
        measure_code_utility(PROBLEMS, REAL, WORTHLESS, spec, CPU, UtilityOptions())


@needs_sandbox
def test_what_is_missing_is_told(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"--model = .*nowhere.*: the model cannot be loaded"):
        CodeModel(PretrainedSpec(str(tmp_path / "nowhere"), training="full"), CPU, seed=0)
    with pytest.raises(DataError, match="synthetic corpus has no documents"):
        measure_code_utility(PROBLEMS, REAL, [], PretrainedSpec(str(folder)), CPU, UtilityOptions())


@needs_sandbox
def test_the_command(folder, tmp_path, difflm):
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("problems", "real", "made", "result")}
    record = {
        "task_id": "Ours/0",
        "prompt": "def half_9(x):\n",
        "entry_point": "half_9",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 3\n",
    }
    paths["problems"].write_text(json.dumps(record))
    assert len(read_problems(str(paths["problems"]))) == 1
    paths["real"].write_text("".join(json.dumps({"body": text}) + "\n" for text in REAL))
    made = tmp_path / "run" / "synthetic"
    made.mkdir(parents=True)
    (made / "part-00000.jsonl").write_text(
        "".join(json.dumps({"code": text}) + "\n" for text in WORTHLESS)
    )
    arguments = (
        *("code", "utility", str(paths["problems"]), "--model", str(folder)),
        *("--real", str(paths["real"]), "--field", "body", "--synthetic", str(tmp_path / "run")),
        *("--max-tokens", "60000", "--lr", "3e-3", "--max-new-tokens", "16", "--device", "cpu"),
    )
    code, out, err = difflm(*arguments, "--output", str(paths["result"]))
    assert code == 0, err
    assert "nothing" in out
    assert "real code" in out
    result = json.loads(paths["result"].read_text())
    scores = {c["corpus"]: c["execution"]["scores"][0]["value"] for c in result["corpora"]}
    assert scores["real"] == 1.0
    assert scores["synthetic"] == 0.0
    code, _, err = difflm(*arguments, "-k", "10", "--num-samples", "2")
    assert code == 2
    assert "raise --num-samples or --seeds" in " ".join(err.split())
    code, _, err = difflm(*arguments, "--temperature", "0", "--num-samples", "2")
    assert code == 2
