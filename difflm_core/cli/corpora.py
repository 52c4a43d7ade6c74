"""Documents that commands are given: files, or what a run has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from difflm_core.data.schema import DataKind


def read_corpus(uri: str, kind: DataKind, field: str | None = None) -> list[str]:
    """All documents of files, or the synthetic ones of a run's folder.

    Args:
        uri: Path, glob, folder or URI.
        kind: JSON or code.
        field: Dotted path of the document in a record; not asked in what a run has made.

    Raises:
        DataError: there are no such documents.
    """
    from difflm_core import storage
    from difflm_core.data.documents import open_documents

    places: str | list[str] = uri
    made = storage.join(uri, "synthetic")
    if storage.is_dir(made):
        names = sorted(info.path for info in storage.list_files(made))
        places = [storage.join(made, name) for name in names if name.startswith("part-")]
        field = None
    source = open_documents(places, kind, field=field)
    return [text for batch in source.batches() for text in batch.column(0).to_pylist()]
