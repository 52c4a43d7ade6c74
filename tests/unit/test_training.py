"""The training loop: resuming, keeping the best, stopping; and the seeds it draws from."""

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from difflm_core.engines import OptimizerOptions, TorchEngine
from difflm_core.errors import StageError
from difflm_core.seeds import numpy_generator, seed_of
from difflm_core.training import Ema, LoopOptions, Phase, TrainingLoop

PHASES = [Phase("first", 12), Phase("second", 11), Phase("decay", share=0.3, decays=True)]
NUM_STEPS = 12 + 11 + 7
STEPS_PER_EPOCH = 7


class Interrupted(Exception):
    """What a killed process would be."""


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 2))


def start(checkpoint=None, phases=PHASES, *, patience=0, save_every=3):
    model = small_model()
    matrices = frozenset(name for name, p in model.named_parameters() if p.ndim == 2)
    engine = TorchEngine(model, OptimizerOptions(0.01, 0.02, 0.01, matrices=matrices))
    options = LoopOptions(
        warmup_steps=3,
        ema_decay=0.9,
        evaluate_every_steps=5,
        patience=patience,
        checkpoint_every_steps=save_every,
    )
    return TrainingLoop(engine, phases, options, seed=1, checkpoint=checkpoint and str(checkpoint))


def batch(purpose, epoch, position):
    generator = numpy_generator(1, purpose, epoch)
    inputs = generator.normal(size=(STEPS_PER_EPOCH, 16, 4))[position]
    return torch.from_numpy(inputs).float()


def run(loop, *, stop_before=None, **more):
    def loss_of_step(step, phase):
        if step == stop_before:
            raise Interrupted
        x = batch("train", *divmod(step, STEPS_PER_EPOCH))
        y = x[:, :2].sin() if phase != "first" else x[:, 2:]
        loss = (loop.engine.module(x) - y).square().mean()
        yield loss, {"double": 2 * loss}

    def evaluate(phase):
        x = batch("valid", 0, 0)
        y = x[:, :2].sin() if phase != "first" else x[:, 2:]
        error = float((loop.engine.module(x) - y).square().mean())
        return error, {"error": error}

    return loop.run(loss_of_step, evaluate, description="test", **more)


def weights(loop):
    return [p.detach().clone() for p in loop.engine.module.parameters()]


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("killed", [[1], [3], [7], [10, 11], [12], [13, 22], [2, 2, 16, 23, 29]])
@pytest.mark.parametrize("patience", [0, 1])
def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path, killed, patience):
    """Also in the middle of an epoch, between checkpoints and between phases; bit for bit."""
    undisturbed = start(patience=patience)
    expected = run(undisturbed)
    checkpoint = tmp_path / "checkpoint.safetensors"
    for step in killed:
        with contextlib.suppress(Interrupted):  # with patience it may have ended before
            run(start(checkpoint, patience=patience), stop_before=step)
    resumed = start(checkpoint, patience=patience)
    state = run(resumed)
    assert state == expected
    if not patience:
        assert [entry["step"] for entry in state.history] == [5, 10, 12, 15, 20, 23, 25, 30]
    assert_equal(weights(resumed), weights(undisturbed))
    assert_equal(resumed.ema.average.values(), undisturbed.ema.average.values())
    assert_equal(resumed.best.values(), undisturbed.best.values())


def test_stopping_on_request_is_an_interruption(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert run(start(checkpoint), stop_after=17).step == 17
    resumed, undisturbed = start(checkpoint), start()
    assert run(resumed) == run(undisturbed)
    assert_equal(weights(resumed), weights(undisturbed))


def test_a_finished_run_is_not_trained_again(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first = start(checkpoint, save_every=NUM_STEPS)
    expected = run(first)
    again = start(checkpoint, save_every=NUM_STEPS)
    assert run(again, stop_before=NUM_STEPS) == expected
    assert_equal(weights(again), weights(first))


def test_the_global_generator_does_not_matter():
    first = start()
    run(first)
    second = start()
    torch.manual_seed(99)
    np.random.default_rng(3).random(5)
    run(second)
    assert_equal(weights(first), weights(second))


def test_training_reduces_the_loss_and_leaves_the_module_in_eval_mode():
    loop = start(phases=[Phase("all", 60), Phase("decay", share=0.5, decays=True)])
    history = run(loop).history
    assert history[-1]["error"] < 0.7 * history[0]["error"]
    assert not loop.engine.module.training


def scripted(loop, scores):
    """Run with given scores; returns the state and the weights seen by each evaluation."""
    seen = []
    values = itertools.chain(scores, itertools.repeat(scores[-1]))

    def evaluate(phase):
        assert not loop.engine.module.training
        seen.append(weights(loop))
        return next(values), {}

    def loss_of_step(step, phase):
        assert loop.engine.module.training
        x = batch("train", *divmod(step, STEPS_PER_EPOCH))
        yield loop.engine.module(x).square().mean(), {}

    return loop.run(loss_of_step, evaluate, description="test"), seen


@pytest.mark.parametrize(
    ("scores", "best"), [([3.0, 1.0, 2.0, 4.0], 1), ([1.0, 1.0, 1.0, 1.0], 0), ([4, 3, 2, 1], 3)]
)
def test_the_best_averaged_weights_are_kept(scores, best):
    loop = start(phases=[Phase("only", 20)])
    state, seen = scripted(loop, scores)
    assert state.best_score == scores[best]
    assert_equal(weights(loop), seen[best])
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))


def test_a_phase_has_its_own_score():
    loop = start(phases=[Phase("a", 10), Phase("b", 10)])
    state, seen = scripted(loop, [1.0, 2.0, 9.0, 8.0])
    assert state.best_score == 8.0
    assert_equal(weights(loop), seen[3])


@pytest.mark.parametrize("last", [7.9, 9.5])
def test_a_decay_leaves_its_last_weights_whatever_they_score(last):
    loop = start(phases=[Phase("a", 10), Phase("decay", 15, decays=True)])
    _, seen = scripted(loop, [9.0, 8.0, 8.5, 8.1, last])
    assert_equal(weights(loop), seen[4])


def test_a_phase_starts_from_the_best_weights_of_the_one_before():
    begun = {}
    loop = start(phases=[Phase("a", 15), Phase("b", 5)])
    seen = []
    scores = iter([2.0, 1.0, 3.0, 1.0])

    def loss_of_step(step, phase):
        begun.setdefault(phase, weights(loop))
        yield loop.engine.module(batch("train", 0, step % STEPS_PER_EPOCH)).square().mean(), {}

    def evaluate(phase):
        seen.append(weights(loop))
        return next(scores), {}

    loop.run(loss_of_step, evaluate, description="test")
    assert_equal(begun["b"], seen[1])


def test_without_a_score_the_last_average_is_kept():
    loop = start(phases=[Phase("only", 20)])
    state, seen = scripted(loop, [None])
    assert state.best_score is None
    assert_equal(weights(loop), seen[-1])


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (2, [1.0, 2.0, 3.0], 15),
        (2, [3.0, 2.0, 2.5, 1.9, 2.0, 2.0], 30),
        (0, [1.0, 2.0], 50),
        (1, [None, None, 1.0, 2.0], 20),
    ],
)
def test_patience_ends_a_phase(patience, scores, steps):
    loop = start(phases=[Phase("only", 50)], patience=patience)
    state, seen = scripted(loop, scores)
    assert state.step == steps
    assert len(seen) == steps // 5


def test_patience_counts_within_a_phase_and_never_cuts_a_decay_short():
    phases = [Phase("a", 50), Phase("b", 50), Phase("decay", share=0.5, decays=True)]
    loop = start(phases=phases, patience=2)
    state, _ = scripted(loop, [1.0, 1.0, 1.0, 5.0, 6.0, 6.0, 9.0])
    # 15 steps, 15 steps, and then half as many to the end, although nothing improves.
    assert state.step == 45
    assert state.phase_start == 45


def test_the_learning_rate_warms_up_holds_and_decays_to_zero():
    phases = [Phase("a", 6), Phase("b", 5), Phase("decay", share=4 / 11, decays=True)]
    loop = start(phases=phases)
    rates = []

    def loss_of_step(step, phase):
        yield loop.engine.module(batch("train", 0, step % STEPS_PER_EPOCH)).square().mean(), {}

    def remembering_step(rate):
        norm = original(rate)
        optimizers = loop.engine._optimizers
        rates.append([group["lr"] for o in optimizers for group in o.param_groups])
        return norm

    original, loop.engine.step = loop.engine.step, remembering_step
    loop.run(loss_of_step, lambda _: (None, {}), description="test")
    third = [1 / 3, 2 / 3]
    factors = [*third, 1, 1, 1, 1, *third, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    expected = [[0.01 * factor, 0.02 * factor] for factor in factors]
    np.testing.assert_allclose(rates, expected)


def test_a_gradient_that_is_not_finite_is_explained():
    loop = start()

    def loss_of_step(step, phase):
        loss = loop.engine.module(batch("train", 0, step)).sum()
        yield (loss * math.inf if step == 2 else loss), {}

    with pytest.raises(StageError, match=r"step 2 is not finite.*learning rate"):
        loop.run(loss_of_step, lambda _: (0.0, {}), description="test")
    assert all(p.isfinite().all() for p in loop.engine.module.parameters())
    assert loop.state.step == 2


def test_large_gradients_are_clipped_to_the_norm():
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    engine = TorchEngine(model, OptimizerOptions(1.0, clip_norm=0.25))
    engine._optimizers = [torch.optim.SGD(model.parameters(), lr=1.0)]
    engine.backward(1e3 * model.weight.sum())
    assert engine.step(1.0) == pytest.approx(1e3 * 3**0.5)
    assert float((model.weight - before).detach().norm()) == pytest.approx(0.25, rel=1e-4)


def test_the_average_is_the_weighted_sum_of_the_past():
    values = [1.0, -2.0, 5.0, 3.0]
    weights = {"weight": torch.tensor([0.5])}
    ema = Ema(weights, decay=0.2)
    expected = 0.5
    for step, value in enumerate(values):
        weights["weight"].fill_(value)
        ema.update(weights, step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(ema.average["weight"]) == pytest.approx(expected)


def test_lent_weights_are_given_back():
    model = nn.Linear(2, 1, bias=False)
    engine = TorchEngine(model, OptimizerOptions(0.1))
    own, average = model.weight.detach().clone(), {"weight": torch.tensor([[5.0, 6.0]])}
    engine.lend(average)
    assert model.weight.tolist() == [[5.0, 6.0]]
    engine.lend(average)
    assert torch.equal(model.weight, own)
    assert average["weight"].tolist() == [[5.0, 6.0]]


def test_seeds_are_a_function_of_their_arguments_alone():
    # The same number on every machine and in every release: artifacts depend on it.
    assert seed_of(0, "rows", 3) == 4430317954547726027
    assert all(0 <= seed_of(7, "purpose", k) < 2**63 for k in range(100))
    keys = [(s, p, *i) for s in (0, 1) for p in ("a", "b") for i in ((), (0,), (1,), (0, 1))]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    first, again = (numpy_generator(3, "x", 5).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, numpy_generator(3, "x", 6).random(4))
