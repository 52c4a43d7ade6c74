from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.generation.card import TrainingFacts, model_card

SCHEMA = Schema(
    columns=(
        Column(name="pay | €", kind=ColumnKind.FLOAT, nullable=True, minimum=0, maximum=987654),
        Column(name="code", kind=ColumnKind.IDENTIFIER, pattern="S-[0-9]{4}"),
        Column(name="planet", kind=ColumnKind.CONSTANT, value="Mars"),
    ),
    target="pay | €",
)
FACTS = TrainingFacts(
    num_rows=1234,
    seed=7,
    vae={"reconstruction": 12.345678, "kl": 3.5, "active_dims": 9, "language_model": 15.0},
    diffusion={"loss": 0.25},
    settings={"vae": {"width": 32}, "diffusion": {"num_steps": 10}},
)


def test_a_card_names_columns_and_measures():
    lines = model_card(SCHEMA, FACTS).splitlines()
    assert "1,234 records with 3 columns. Target: pay \\| €." in lines
    assert "| pay \\| € | float | yes | learned; inside the range seen in training |" in lines
    assert (
        "| code | identifier | no | made anew, unique, in the same pattern; not learned |" in lines
    )
    assert "| Reconstruction, nats per record (less is better) | 12.35 |" in lines
    assert "| Latent dimensions in use | 9 |" in lines
    assert "| Loss of the diffusion on fixed noise | 0.25 |" in lines
    assert "- seed: 7" in lines
    assert "- vae: width 32" in lines
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Trained on", "## Validation", "## Use", "## Privacy", "## Settings"]


def test_a_card_holds_no_value_of_the_data():
    card = model_card(SCHEMA, FACTS)
    assert "Mars" not in card
    assert "987654" not in card
    assert "S-[0-9]" not in card


def test_a_card_without_validation_says_so():
    facts = TrainingFacts(10, 0, {"reconstruction": 0.0, "kl": 0.0}, {})
    card = model_card(SCHEMA, facts)
    assert "No records were kept for validation." in card
    assert "Reconstruction" not in card
