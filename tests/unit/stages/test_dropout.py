import pytest

from difflm_core.stages.train_vae import choose_dropout


@pytest.mark.parametrize(
    ("max_tokens", "table_tokens", "expected"),
    [
        (12_000_000, 618_000, 0.194),  # Adult: 19 passes
        (12_000_000, 250_000_000, 0.0),  # read in part
        (12_000_000, 1_000, 0.3),  # the most
        (12_000_000, 0, 0.3),
    ],
)
def test_dropout_grows_with_the_passes_over_the_table(max_tokens, table_tokens, expected):
    assert choose_dropout(max_tokens, table_tokens) == expected
