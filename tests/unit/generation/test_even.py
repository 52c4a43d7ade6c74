"""Even draws: each row follows its own distribution, together they represent it closely."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difflm_core.generation import even
from difflm_core.generation.even import Draws, even_normals, even_tokens


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def counts(tokens, size):
    return torch.bincount(tokens, minlength=size).double()


def test_noise_is_nearly_exactly_standard_normal():
    noise = even_normals(1024, 16, seed=0)
    assert noise.shape == (1024, 16)
    assert noise.dtype is torch.float32
    # Independent rows are off by 1 / sqrt(1024) = 0.03 in the mean, ten times as much.
    assert float(noise.mean(dim=0).abs().max()) < 0.003
    assert float((noise.std(dim=0) - 1).abs().max()) < 0.01
    assert float((noise.T @ noise / 1024 - torch.eye(16)).abs().max()) < 0.06


def test_noise_of_one_row_is_standard_normal():
    firsts = torch.cat([even_normals(1, 2, seed=seed, first=7) for seed in range(4000)])
    assert float(firsts.mean(dim=0).abs().max()) < 0.06
    assert float((firsts.std(dim=0) - 1).abs().max()) < 0.05
    assert abs(float(torch.corrcoef(firsts.T)[0, 1])) < 0.06


@pytest.mark.parametrize("count", [1, 1000, 1025])
def test_noise_depends_on_the_seed_alone(count):
    noise = even_normals(count, 3, seed=5)
    assert bool(torch.isfinite(noise).all())
    torch.manual_seed(1)
    assert torch.equal(noise, even_normals(count, 3, seed=5))
    assert not torch.equal(noise, even_normals(count, 3, seed=6))


def test_noise_of_a_row_is_the_same_however_the_table_is_cut(monkeypatch):
    monkeypatch.setattr(even, "SEQUENCE_ROWS", 100)
    whole = even_normals(350, 4, seed=2)
    for cuts in [(0, 350), (0, 100, 200, 350), (0, 37, 250, 301, 350)]:
        pairs = itertools.pairwise(cuts)
        parts = [even_normals(b - a, 4, seed=2, first=a) for a, b in pairs]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole[:100], whole[100:200])


def drawn_alone(rows, live, generator):
    return even_tokens(rows, live, Draws([len(rows)], [generator], rows.device))


def test_tokens_of_equal_rows_come_as_often_as_expected():
    share = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    for seed in range(5):
        tokens = drawn_alone(share.expand(1000, 5), torch.ones(1000).bool(), seeded(seed))
        # One of a thousand for each of three halvings; independent rows are off by sixteen.
        assert float((counts(tokens, 5) - 1000 * share).abs().max()) <= 3


def test_tokens_of_different_rows_come_about_as_often_as_expected():
    logits = torch.randn(12, generator=seeded(0)) + 0.3 * torch.randn(4096, 12, generator=seeded(1))
    rows = logits.softmax(dim=1)
    error = {"even": 0.0, "independent": 0.0}
    for seed in range(10):
        drawn = {
            "even": drawn_alone(rows, torch.ones(4096).bool(), seeded(seed)),
            "independent": rows.multinomial(1, generator=seeded(seed)).squeeze(1),
        }
        for name, tokens in drawn.items():
            error[name] += float((counts(tokens, 12) - rows.sum(dim=0)).square().sum())
    assert error["even"] < 0.1 * error["independent"]


def test_every_row_follows_its_own_distribution():
    rows = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0], [0.4, 0.6, 0.0]])
    live = torch.tensor([True, False, True, True])
    drawn = torch.stack([drawn_alone(rows, live, seeded(seed)) for seed in range(4000)])
    for row in range(4):
        share = counts(drawn[:, row], 3) / 4000
        assert float((share - rows[row]).abs().max()) < 0.035  # over four standard deviations
        assert share[rows[row] == 0].sum() == 0


def test_neighbours_in_expected_token_share_the_tokens():
    # Two kinds of rows, mixed: each kind gets its tokens as often as it expects.
    kinds = torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]])
    kind = torch.randint(2, (1000,), generator=seeded(3))
    tokens = drawn_alone(kinds[kind], torch.ones(1000).bool(), seeded(4))
    for k in (0, 1):
        expected = kinds[k] * int((kind == k).sum())
        assert float((counts(tokens[kind == k], 4) - expected).abs().max()) <= 2


def test_rows_that_do_not_matter_disturb_no_other():
    share = torch.tensor([0.25, 0.25, 0.5])
    live = torch.rand(1000, generator=seeded(5)) < 0.5
    other = torch.rand(1000, 3, generator=seeded(6))
    rows = torch.where(live[:, None], share, other / other.sum(dim=1, keepdim=True))
    tokens = drawn_alone(rows, live, seeded(7))
    assert float((counts(tokens[live], 3) - share * int(live.sum())).abs().max()) <= 3


@pytest.mark.parametrize("size", [1, 2, 64, 100])
def test_tokens_are_those_of_the_slot_and_follow_the_generator(size):
    rows = torch.rand(50, size, generator=seeded(8))
    rows = rows / rows.sum(dim=1, keepdim=True)
    tokens = drawn_alone(rows, torch.ones(50).bool(), seeded(9))
    assert tokens.dtype is torch.int64
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < size
    assert torch.equal(tokens, drawn_alone(rows, torch.ones(50).bool(), seeded(9)))


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(2, 70), st.integers(0, 99)
)
def test_a_draw_does_not_depend_on_others_in_the_batch(sizes, num_tokens, seed):
    logits = torch.randn(sum(sizes), num_tokens, generator=seeded(seed)) * 3
    rows, live = logits.softmax(dim=1), torch.rand(sum(sizes), generator=seeded(seed)) < 0.8
    generators = [seeded(1000 * seed + draw) for draw in range(len(sizes))]
    together = even_tokens(rows, live, Draws(sizes, generators, rows.device)).split(sizes)
    parts = zip(rows.split(sizes), live.split(sizes), together, strict=True)
    for draw, (own_rows, own_live, tokens) in enumerate(parts):
        assert torch.equal(tokens, drawn_alone(own_rows, own_live, seeded(1000 * seed + draw)))
