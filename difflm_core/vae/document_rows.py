"""Training and validation batches of documents, whose lengths differ.

Documents of similar length share a batch, so that little is filled up; which ones, and in which
order, is a function of the seed and the epoch alone.

Shape legend: N documents, B batch, T decoder's tokens, S encoder's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from difflm_core.codec.text import DocumentTokens, TextCodec
from difflm_core.errors import DataError
from difflm_core.seeds import numpy_generator
from difflm_core.vae.batches import RecordShard

# Stands after the end of a document; no token has this id.
PAD = -1
# Tokens of a batch, where its documents are not given in number: so many that computing the
# optimizer's step is a small part of it.
BATCH_TOKENS = 2048
MIN_ROWS, MAX_ROWS = 8, 256
# Batches whose documents are sorted by length before they are dealt out to them.
SORTED_BATCHES = 8


@dataclass(frozen=True)
class DocumentRows:
    """What the model reads of some documents.

    Attributes:
        ids_BT: Token ids, each document's end included, then `PAD`; int64.
        read_BS: Token ids of an encoder with a tokenizer of its own, then `PAD`; None: the encoder
            reads the same tokens as the decoder.
    """

    ids_BT: Tensor
    read_BS: Tensor | None = None

    def __len__(self) -> int:
        """Number of documents, B."""
        return len(self.ids_BT)

    def __getitem__(self, rows: Any) -> DocumentRows:
        """Some of the documents; what is filled up in all of them is left out."""
        read = None if self.read_BS is None else _trimmed(self.read_BS[rows])
        return DocumentRows(_trimmed(self.ids_BT[rows]), read)

    def to(self, device: torch.device | str) -> DocumentRows:
        """The same documents on a device."""
        read = None if self.read_BS is None else self.read_BS.to(device)
        return DocumentRows(self.ids_BT.to(device), read)

    def tensor_split(self, parts: int) -> list[DocumentRows]:
        """Cut into equal parts, as `Tensor.tensor_split` does."""
        return [self[rows] for rows in torch.arange(len(self)).tensor_split(parts)]


def _trimmed(ids_BT: Tensor) -> Tensor:
    longest = int((ids_BT != PAD).sum(dim=1).max()) if len(ids_BT) else 0
    return ids_BT[:, : max(1, longest)]


@dataclass(frozen=True)
class DocumentReader:
    """Turns canonical documents into what the model reads.

    Attributes:
        codec: Of the decoder's tokens.
        encoder_tokenizer: Of the encoder, set to cut what is too long; None: it reads the
            decoder's tokens.
    """

    codec: TextCodec
    encoder_tokenizer: Tokenizer | None = None

    def read(self, records: Any) -> ReadDocuments:
        """All documents of a table that are not too long."""
        tokens = self.codec.encode(records)
        if self.encoder_tokenizer is None:
            return ReadDocuments(tokens, None)
        # What the decoder reads, spelled out again: documents that are too long are left out.
        rows = np.split(tokens.values, tokens.offsets[1:-1])
        texts = self.codec.tokenizer.decode_batch([row[:-1].tolist() for row in rows])
        encodings = self.encoder_tokenizer.encode_batch_fast(texts)
        values = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        lengths = np.array([len(part) for part in values], dtype=np.int64)
        flat = np.concatenate(values) if values else np.empty(0, dtype=np.int32)
        return ReadDocuments(tokens, DocumentTokens(flat, np.concatenate([[0], lengths.cumsum()])))


@dataclass(frozen=True)
class ReadDocuments:
    """Documents as the tokens of the decoder, and of the encoder if it has its own."""

    tokens: DocumentTokens
    read: DocumentTokens | None

    def __len__(self) -> int:
        """Number of documents, N."""
        return len(self.tokens)

    def rows(self, index: np.ndarray) -> DocumentRows:
        """Some of them, as tensors."""
        read = None if self.read is None else torch.from_numpy(self.read.padded(index, PAD))
        return DocumentRows(torch.from_numpy(self.tokens.padded(index, PAD)), read)


class DocumentBatches:
    """Batches of shuffled documents, by step; memory holds one shard."""

    def __init__(
        self,
        shards: Sequence[RecordShard],
        reader: DocumentReader,
        *,
        batch_rows: int | None,
        seed: int,
    ) -> None:
        """Plan the batches; every shard is read once, since documents that are too long count not.

        Args:
            shards: Shards of training documents, each a random part of the corpus.
            reader: Turns them into tokens.
            batch_rows: Documents in a batch; a shard with fewer is one batch. None: as many as have
                about `BATCH_TOKENS` tokens.
            seed: Seed of the order.

        Raises:
            DataError: there are no documents.
        """
        self._reader = reader
        self.seed = seed
        self.num_too_long = 0
        self._shards: list[RecordShard] = []
        self._rows: list[int] = []
        self._loaded: tuple[int, ReadDocuments] | None = None
        num_tokens = 0
        for shard in shards:
            if not shard.num_rows:
                continue
            documents = reader.read(shard.read())
            self.num_too_long += documents.tokens.num_too_long
            if len(documents):
                self._loaded = (len(self._shards), documents)
                self._shards.append(shard)
                self._rows.append(len(documents))
                num_tokens += len(documents.tokens.values)
        if not self._shards:
            raise DataError(
                "The training split has no documents of at most "
                f"{reader.codec.options.max_tokens} tokens; raise codec.max_document_tokens, lower "
                "valid_fraction, or add documents."
            )
        self.num_rows = sum(self._rows)
        self.tokens_per_row = num_tokens / self.num_rows
        if batch_rows is None:
            rows = round(BATCH_TOKENS / self.tokens_per_row)
            batch_rows = min(max(MIN_ROWS, rows), MAX_ROWS)
        self.batch_rows = batch_rows
        self._batches = [max(1, rows // batch_rows) for rows in self._rows]
        self.steps_per_epoch = sum(self._batches)
        self.smallest = min(batch_rows, *self._rows)
        whole = [min(r, b * batch_rows) for r, b in zip(self._rows, self._batches, strict=True)]
        self.mean_rows = sum(whole) / self.steps_per_epoch
        self._order: tuple[int, int, list[np.ndarray]] | None = None

    def batch(self, step: int) -> DocumentRows:
        """The documents of training step `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = numpy_generator(self.seed, "shards", epoch).permutation(len(self._shards))
        for shard in order.tolist():
            if position < self._batches[shard]:
                documents = self._load(shard)
                return documents.rows(self._dealt(epoch, shard, documents)[position])
            position -= self._batches[shard]
        raise AssertionError("a step lies in one of the shards")

    def _load(self, shard: int) -> ReadDocuments:
        if self._loaded is None or self._loaded[0] != shard:
            self._loaded = (shard, self._reader.read(self._shards[shard].read()))
        return self._loaded[1]

    def _dealt(self, epoch: int, shard: int, documents: ReadDocuments) -> list[np.ndarray]:
        """Documents of each batch of a shard in this epoch."""
        if self._order is None or self._order[:2] != (epoch, shard):
            generator = numpy_generator(self.seed, "rows", epoch, shard)
            order = generator.permutation(len(documents))
            lengths = documents.tokens.lengths
            batches: list[np.ndarray] = []
            num_rows = self._batches[shard] * self.batch_rows
            for begin in range(0, min(num_rows, len(order)), SORTED_BATCHES * self.batch_rows):
                end = min(begin + SORTED_BATCHES * self.batch_rows, num_rows)
                group = order[begin:end]
                group = group[np.argsort(lengths[group], kind="stable")]
                cuts = range(self.batch_rows, len(group), self.batch_rows)
                batches += np.split(group, list(cuts))
            shuffled = [batches[index] for index in generator.permutation(len(batches))]
            self._order = (epoch, shard, shuffled)
        return self._order[2]


def first_documents(
    shards: Sequence[RecordShard], reader: DocumentReader, *, max_rows: int
) -> DocumentRows:
    """The first `max_rows` documents, shortest first, so that little is filled up."""
    parts: list[ReadDocuments] = []
    left = max_rows
    for shard in shards:
        if left <= 0:
            break
        parts.append(reader.read(shard.read().slice(0, left)))
        left -= shard.num_rows
    rows = [part.rows(np.arange(len(part))) for part in parts if len(part)]
    if not rows:
        return DocumentRows(torch.empty((0, 1), dtype=torch.int64))
    ids_NT = _stacked([part.ids_BT for part in rows])
    read = [part.read_BS for part in rows if part.read_BS is not None]
    order = torch.argsort((ids_NT != PAD).sum(dim=1), stable=True)
    read_NS = _stacked(read)[order] if read else None
    return DocumentRows(ids_NT[order], read_NS)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat(
        [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=PAD) for part in parts]
    )
