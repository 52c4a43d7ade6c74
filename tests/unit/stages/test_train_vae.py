import pyarrow as pa
import pytest
import torch

from difflm_core.codec.records import RecordCodec
from difflm_core.config import VaeConfig
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.stages.untrained import build_vae, choose_dropout, target_slots


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


def people_codec(names: list[str], target: str | None) -> RecordCodec:
    schema = Schema(
        columns=tuple(Column(name=name, kind=ColumnKind.INTEGER) for name in names), target=target
    )
    rows = {name: list(range(0, 5000, 7)) for name in names}
    return RecordCodec.fit(schema, pa.Table.from_pydict(rows, schema=schema.arrow_schema))


def test_the_encoder_does_not_see_the_target():
    codec = people_codec(["age", "income", "height"], "income")
    slots = target_slots(codec)
    assert slots == (2, 3)
    config = VaeConfig(width=16, num_heads=2, num_layers=1, latent_dim=3)
    ids = torch.from_numpy(codec.grammar.start.copy())[None].long()
    other_target, other_age = ids.clone(), ids.clone()
    other_target[:, list(slots)] += 1
    other_age[:, 0] += 1
    for hidden in (True, False):
        vae = build_vae(config.model_copy(update={"hide_target": hidden}), codec, 0, 100)
        with torch.inference_mode():
            mean, same, changed = (vae.posterior(x)[0] for x in (ids, other_target, other_age))
        assert torch.equal(mean, same) == hidden
        assert not torch.equal(mean, changed)


@pytest.mark.parametrize(("names", "target"), [(["a", "b"], None), (["a"], "a")])
def test_without_a_target_or_anything_else_the_encoder_sees_everything(names, target):
    assert target_slots(people_codec(names, target)) == ()
