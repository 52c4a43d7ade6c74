"""The judge that runs here, with a tiny language model that is made on the spot."""

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from difflm_core.errors import ConfigError
from difflm_core.judge.local import LocalJudge
from difflm_core.judge.questions import CHOICES, preference_question, score_question
from difflm_core.judge.verdicts import JudgeOptions, judge_tools

TOOL = {"name": "add", "description": "Adds two numbers."}
OTHER = {"name": "sum", "description": "Total of a list."}
CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Such as those of Mistral and Gemma.
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
)


def make_model(folder, chat_template=None, positions=4096):
    tokenizer = Tokenizer(models.BPE())
    # As most tokenizers of today: 10 is two tokens, 1 is one.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    question = score_question(TOOL)
    tokenizer.train_from_iterator([question.system, question.user], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.5,  # opinions, even without a training
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def judge(model):
    return LocalJudge(model, device="cpu")


def naive_log_probability(judge, text, answer):
    """Token by token, without a cache: the chain rule itself."""
    prompt = judge._tokenizer(text).input_ids
    total = 0.0
    for token in judge._tokenizer(answer, add_special_tokens=False).input_ids:
        with torch.inference_mode():
            logits = judge._model(input_ids=torch.tensor([prompt])).logits[0, -1]
        total += math.log(torch.softmax(logits.double(), dim=-1)[token])
        prompt = [*prompt, token]
    return total


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (score_question(TOOL), [f'{{"score": {n}}}' for n in range(1, 11)]),
        (
            preference_question([TOOL], [OTHER]),
            ['{"better": "A"}', '{"better": "B"}', '{"better": "equal"}'],
        ),
    ],
    ids=["score", "preference"],
)
def test_the_likeliest_answer_wins(judge, question, answers):
    text = f"{question.system}\n\n{question.user}\n\n"
    expected = [naive_log_probability(judge, text, answer) for answer in answers]
    assert judge.log_probabilities(question) == pytest.approx(expected, abs=1e-3)
    best = max(range(len(answers)), key=expected.__getitem__)
    value = best + 1 if question.key == "score" else CHOICES[best]
    assert list(judge.ask([question])) == [value]


def test_longer_answers_are_not_favoured(model):
    """Where every token is equally likely, fewer tokens are likelier: never the mean of them."""
    judge = LocalJudge(model, device="cpu")
    question = score_question(TOOL)
    lengths = [
        len(judge._tokenizer(f'{{"score": {n}}}', add_special_tokens=False).input_ids)
        for n in range(1, 11)
    ]
    head = judge._model.lm_head.weight
    torch.nn.init.zeros_(head)
    each = -math.log(head.shape[0])
    assert judge.log_probabilities(question) == pytest.approx([each * n for n in lengths], abs=1e-3)
    assert lengths[9] > lengths[0]


def test_answers_come_in_order_and_are_the_same_again(judge):
    tools = [{"name": f"tool {i}", "description": "x" * i} for i in range(5)]
    questions = [score_question(tool) for tool in tools]
    calls = []
    answers = list(judge.ask(questions, lambda: calls.append(1)))
    assert len(calls) == 5
    assert all(1 <= answer <= 10 for answer in answers)
    assert answers == [next(judge.ask([question])) for question in questions]


def test_a_chat_template_is_used(tmp_path):
    judge = LocalJudge(make_model(tmp_path, CHAT), device="cpu")
    question = score_question(TOOL)
    text = judge._tokenizer.decode(judge._prompt(question))
    assert text == f"<system>{question.system}\n<user>{question.user}\n<assistant>"


def test_a_chat_without_a_system_gets_it_from_the_user(tmp_path):
    judge = LocalJudge(make_model(tmp_path, NO_SYSTEM), device="cpu")
    question = score_question(TOOL)
    text = judge._tokenizer.decode(judge._prompt(question))
    assert text == f"<user>{question.system}\n\n{question.user}\n<assistant>"


def test_what_is_too_long_stays_unanswered(tmp_path):
    judge = LocalJudge(make_model(tmp_path, positions=1500), device="cpu")
    long = {"name": "add", "description": "1 2 3 " * 1000}
    answers = list(judge.ask([score_question(long), score_question({"name": "f"})]))
    assert answers[0] is None
    assert answers[1] in range(1, 11)
    assert dict(judge.usage.unanswered) == {"longer than the judge can read": 1}


def test_what_was_read_is_counted(model):
    judge = LocalJudge(model, device="cpu")
    question = preference_question([TOOL], [OTHER])
    list(judge.ask([question]))
    spelled = ['{"better": "A"}', '{"better": "B"}', '{"better": "equal"}']
    texts = [f"{question.system}\n\n{question.user}\n\n", *spelled]
    assert judge.usage.prompt_tokens == sum(len(judge._tokenizer(t).input_ids) for t in texts)


def test_a_whole_judgment(judge):
    real = [{"name": f"real {i}"} for i in range(8)]
    made = [{"name": f"made {i}"} for i in range(8)]
    options = JudgeOptions(max_scored=4, max_groups=2, tools_per_set=2)
    result = judge_tools(real, made, judge, options)
    assert (result.synthetic.num_tools, result.real.num_tools) == (4, 4)
    assert result.preference.num_pairs == 2
    assert result.unanswered == {}
    assert judge_tools(real, made, judge, options).preference == result.preference


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        LocalJudge(str(tmp_path / "none"))


def test_weights_that_could_run_code_are_refused(tmp_path):
    folder = make_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        LocalJudge(folder)
