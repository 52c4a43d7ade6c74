"""What the training of a text-VAE starts from: batches, validation records, an untrained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from difflm_core.config import VaeConfig

if TYPE_CHECKING:
    from difflm_core.codec.loading import AnyCodec
    from difflm_core.codec.records import RecordCodec
    from difflm_core.codec.text import TextCodec
    from difflm_core.device import Compute
    from difflm_core.vae.batches import Batches, RecordShard
    from difflm_core.vae.document_model import DocumentVae, DocumentVaeSize
    from difflm_core.vae.model import RecordVae, Rows, TextVae

DROPOUT_PER_PASS = 0.01
MAX_DROPOUT = 0.3
# Rows of a table in one training step.
TABLE_ROWS = 256
DEFAULT_INSTRUCTION = (
    "Write one structured record. The vectors that follow stand for a point in a latent space; let "
    "them decide what the record says, and keep exactly to the format."
)


@dataclass(frozen=True)
class Untrained:
    """The beginning of a training.

    Attributes:
        build: Builds the model; the same weights at every call.
        batches: Training records.
        valid: Validation records.
    """

    build: Callable[[], TextVae]
    batches: Batches
    valid: Rows


def untrained(
    cfg: VaeConfig,
    codec: AnyCodec,
    shards: Mapping[str, Sequence[RecordShard]],
    seed: int,
    compute: Compute,
) -> Untrained:
    """What training with this configuration starts from.

    Args:
        cfg: Model and training.
        codec: Of the records, which decides the family of the model.
        shards: Records of the splits `train` and `valid`.
        seed: Seed of the run.
        compute: Where and in which precision the model is trained.
    """
    from difflm_core.codec.text import TextCodec
    from difflm_core.vae.batches import TrainingBatches, fixed_ids
    from difflm_core.vae.document_model import encoder_tokenizer
    from difflm_core.vae.document_rows import DocumentBatches, DocumentReader, first_documents

    if isinstance(codec, TextCodec):
        size = document_size(cfg, codec)
        reader = DocumentReader(codec, encoder_tokenizer(size))
        batches = DocumentBatches(shards["train"], reader, batch_rows=cfg.batch_rows, seed=seed)
        valid = first_documents(shards["valid"], reader, max_rows=cfg.valid_rows)
        sized = document_size(cfg, codec, round(batches.num_rows * batches.tokens_per_row))
        return Untrained(lambda: build_document_vae(sized, seed, compute), batches, valid)
    batch_rows = cfg.batch_rows or TABLE_ROWS
    records = TrainingBatches(shards["train"], codec, batch_rows=batch_rows, seed=seed)
    ids_NT = fixed_ids(shards["valid"], codec, max_rows=cfg.valid_rows, seed=seed, purpose="valid")
    return Untrained(lambda: build_vae(cfg, codec, seed, records.num_rows), records, ids_NT)


def choose_dropout(max_tokens: int, table_tokens: int) -> float:
    """Dropout by how often training may read the records (docs/adr/0016)."""
    passes = max_tokens / max(1, table_tokens)
    return round(min(MAX_DROPOUT, DROPOUT_PER_PASS * passes), 3)


def build_vae(cfg: VaeConfig, codec: RecordCodec, seed: int, num_rows: int) -> RecordVae:
    """The untrained text-VAE of a table, with ordered embeddings for numbers.

    Args:
        cfg: Its size, and its dropout.
        codec: Of the records.
        seed: Seed of the run.
        num_rows: Training records, by which the dropout is chosen where none is given.
    """
    import torch

    from difflm_core.seeds import seed_of
    from difflm_core.vae.decoder import DecoderSize, order_embeddings
    from difflm_core.vae.encoder import EncoderSize
    from difflm_core.vae.model import RecordVae, VaeSize

    torch.manual_seed(seed_of(seed, "weights"))
    dropout = cfg.dropout
    if dropout is None:
        dropout = choose_dropout(cfg.max_tokens, num_rows * len(codec.grammar))
    size = VaeSize(
        decoder=DecoderSize(cfg.width, cfg.num_layers, cfg.num_heads, dropout),
        encoder=EncoderSize(cfg.width, cfg.encoder_layers, cfg.num_heads, 2 * cfg.width),
        latent_dim=cfg.latent_dim,
        num_prompts=cfg.num_prompts,
        injection=cfg.injection,
        hidden_slots=target_slots(codec) if cfg.hide_target else (),
    )
    vae = RecordVae(size, codec.grammar)
    generator = torch.Generator().manual_seed(seed_of(seed, "order"))
    order_embeddings(vae.decoder.embeddings, codec.vocab_order, codec.grammar, generator)
    return vae


def target_slots(codec: RecordCodec) -> tuple[int, ...]:
    """Slots of the target column; none if the record has no other column."""
    target = codec.schema.target
    column = codec.schema.names.index(target) if target else -1
    slots = [slot for slot, owner in enumerate(codec.slot_column) if owner == column]
    return tuple(slots) if len(slots) < len(codec.grammar) else ()


def document_size(
    cfg: VaeConfig, codec: TextCodec, corpus_tokens: int | None = None
) -> DocumentVaeSize:
    """The architecture of a text-VAE of documents.

    Args:
        cfg: The configuration; pretrained models are looked up, and their revisions pinned.
        codec: Of the documents.
        corpus_tokens: Tokens of the training documents, by which the dropout is chosen where none
            is given.

    Raises:
        ConfigError: a pretrained model cannot be had.
    """
    from difflm_core.vae.decoder import DecoderSize
    from difflm_core.vae.document_model import DocumentVaeSize
    from difflm_core.vae.encoder import EncoderSize
    from difflm_core.vae.pretrained import PretrainedSpec, prefix_of

    dropout = cfg.dropout
    if dropout is None:
        dropout = choose_dropout(cfg.max_tokens, corpus_tokens) if corpus_tokens else 0.0
    decoder: DecoderSize | PretrainedSpec
    decoder = DecoderSize(cfg.width, cfg.num_layers, cfg.num_heads, dropout)
    prefix: tuple[int, ...] = ()
    if cfg.decoder is not None:
        decoder = PretrainedSpec(
            model=cfg.decoder,
            revision=cfg.decoder_revision,
            training=cfg.decoder_training,
            lora_rank=cfg.lora_rank,
            lora_alpha=cfg.lora_alpha,
            lora_modules=cfg.lora_modules,
            quantization=cfg.quantization,
            attention=cfg.attention,
        ).pinned()
        text = DEFAULT_INSTRUCTION if cfg.instruction == "default" else cfg.instruction
        prefix = prefix_of(decoder, text, chat_template=cfg.chat_template)
    encoder: EncoderSize | PretrainedSpec
    encoder = EncoderSize(cfg.width, cfg.encoder_layers, cfg.num_heads, 2 * cfg.width)
    if cfg.encoder is not None:
        encoder = PretrainedSpec(cfg.encoder, cfg.encoder_revision, cfg.encoder_training).pinned()
    return DocumentVaeSize(
        decoder=decoder,
        encoder=encoder,
        vocab_size=codec.vocab_size,
        max_tokens=codec.options.max_tokens,
        latent_dim=cfg.latent_dim,
        num_prompts=cfg.num_prompts,
        injection=cfg.injection,
        prefix=prefix,
    )


def build_document_vae(size: DocumentVaeSize, seed: int, compute: Compute) -> DocumentVae:
    """The untrained text-VAE of documents; the same weights for the same seed."""
    import torch

    from difflm_core.seeds import seed_of
    from difflm_core.vae.document_model import DocumentVae

    torch.manual_seed(seed_of(seed, "weights"))
    return DocumentVae(size, compute)
