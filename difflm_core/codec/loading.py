"""Read a codec, whichever kind of records it is for."""

from __future__ import annotations

from pathlib import Path

from difflm_core.codec.base import read_codec_json
from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text import TextCodec

AnyCodec = RecordCodec | TextCodec


def load_codec(directory: Path) -> AnyCodec:
    """Read the codec in `directory`.

    Raises:
        ArtifactError: it was written in another format.
    """
    kind = TextCodec if read_codec_json(directory).get("type") == "text" else RecordCodec
    return kind.load(directory)
