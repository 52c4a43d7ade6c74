"""Read a codec, whichever kind of records it is for."""

from __future__ import annotations

import json
from pathlib import Path

from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text import TextCodec

AnyCodec = RecordCodec | TextCodec


def load_codec(directory: Path) -> AnyCodec:
    """Read the codec in `directory`.

    Raises:
        ArtifactError: it was written in another format.
    """
    document = json.loads((directory / "codec.json").read_text(encoding="utf-8"))
    kind = TextCodec if document.get("type") == "text" else RecordCodec
    return kind.load(directory)
