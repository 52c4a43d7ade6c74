"""What is told of a model: its columns, its card, how its training values are distributed."""

from __future__ import annotations

from components.serving.registry import Model
from components.serving.schemas import ColumnInfo, Distribution, Distributions, ModelDetails
from difflm_core.data.schema import Column
from difflm_core.generation.choices import column_choices
from difflm_core.generation.distributions import training_distributions


def details_of(model: Model) -> ModelDetails:
    """Columns, card and quality."""
    return ModelDetails(
        **model.summary.model_dump(),
        columns=[_column(model, column) for column in model.schema.columns],
        card=model.card,
        quality=model.quality,
    )


def _column(model: Model, column: Column) -> ColumnInfo:
    choices = column_choices(model.codec, column.name)
    return ColumnInfo(
        name=column.name,
        kind=column.kind,
        nullable=choices.nullable,
        is_target=column.name == model.schema.target,
        categories=None if choices.categories is None else list(choices.categories),
        minimum=choices.minimum,
        maximum=choices.maximum,
        conditional=choices.conditional,
    )


def distributions_of(model: Model) -> Distributions:
    """Distributions of the training values, as the codec knows them."""
    return Distributions(
        columns=[
            Distribution(
                name=found.name,
                labels=None if found.labels is None else list(found.labels),
                edges=None if found.edges is None else list(found.edges),
                shares=list(found.shares),
                missing=found.missing,
            )
            for found in training_distributions(model.codec)
        ]
    )
