"""Saving and loading what generation needs: codec, text-VAE, diffusion.

codec/               schema and tokens
vae.json             architecture of the text-VAE     vae.safetensors        weights
diffusion.json       architecture and sampler         diffusion.safetensors  weights, scaler
calibration.safetensors   bias of every token's logit (tables only)

Of a model on top of a pretrained one, vae.safetensors holds what was trained, and vae.json names
the rest.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from difflm_core.codec.loading import load_codec
from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text import TextCodec
from difflm_core.device import Compute
from difflm_core.diffusion.model import DenoiserSize, LatentDiffusion, SamplerOptions
from difflm_core.engines import trained_parameters
from difflm_core.errors import ArtifactError
from difflm_core.generation.document_generator import DocumentGenerator
from difflm_core.generation.generator import DiffusionLatents, Generator
from difflm_core.vae.decoder import DecoderSize
from difflm_core.vae.document_model import DocumentVae, DocumentVaeSize
from difflm_core.vae.encoder import EncoderSize
from difflm_core.vae.model import RecordVae, VaeSize

CODEC_FOLDER = "codec"
CALIBRATION_FILE = "calibration.safetensors"
DOCUMENT_FAMILY = "documents"
AnyGenerator = Generator | DocumentGenerator


def save_vae(vae: RecordVae | DocumentVae, directory: Path) -> None:
    """Write the text-VAE's architecture and its trained weights."""
    if isinstance(vae, RecordVae):
        _write_json(directory / "vae.json", asdict(vae.size))
        save_model(vae, str(directory / "vae.safetensors"))
        return
    _write_json(directory / "vae.json", {"family": DOCUMENT_FAMILY, **vae.size.to_json()})
    weights = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in trained_parameters(vae).items()
    }
    save_file(weights, directory / "vae.safetensors")


def load_vae(
    directory: Path, codec: RecordCodec | TextCodec, compute: Compute
) -> RecordVae | DocumentVae:
    """Inverse of `save_vae`, for the records of `codec`; in eval mode.

    Raises:
        ArtifactError: a pretrained model that it was trained on top of is not there any more.
    """
    data = _read_json(directory / "vae.json")
    if data.pop("family", None) == DOCUMENT_FAMILY:
        vae = DocumentVae(DocumentVaeSize.from_json(data), compute)
        _load_trained(vae, directory / "vae.safetensors")
    else:
        if isinstance(codec, TextCodec):
            raise ArtifactError(f"{directory}: the model is one of tables, its codec of documents.")
        data["decoder"] = DecoderSize(**data["decoder"])
        data["encoder"] = EncoderSize(**data["encoder"])
        data["hidden_slots"] = tuple(data["hidden_slots"])
        vae = RecordVae(VaeSize(**data), codec.grammar)
        load_model(vae, directory / "vae.safetensors")
    vae.to(compute.device).use_precision(compute.precision).eval()
    return vae


def _load_trained(vae: DocumentVae, path: Path) -> None:
    weights, parameters = load_file(path), trained_parameters(vae)
    if weights.keys() != parameters.keys():
        differing = sorted(weights.keys() ^ parameters.keys())
        raise ArtifactError(
            f"{path}: its weights are not those of the architecture in vae.json (differing: "
            f"{', '.join(differing[:3])}). Load it with the versions of transformers and peft that "
            "wrote it, or train again."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def save_diffusion(diffusion: LatentDiffusion, sampler: SamplerOptions, directory: Path) -> None:
    """Write the diffusion's architecture, sampler and weights."""
    data = {"denoiser": diffusion.describe(), "sampler": asdict(sampler)}
    _write_json(directory / "diffusion.json", data)
    save_model(diffusion, str(directory / "diffusion.safetensors"))


def load_diffusion(directory: Path, device: torch.device) -> tuple[LatentDiffusion, SamplerOptions]:
    """Inverse of `save_diffusion`; in eval mode."""
    data = _read_json(directory / "diffusion.json")
    diffusion = LatentDiffusion(DenoiserSize(**data["denoiser"]))
    load_model(diffusion, directory / "diffusion.safetensors")
    return diffusion.to(device).eval(), SamplerOptions(**data["sampler"])


def load_generator(directory: Path, compute: Compute) -> AnyGenerator:
    """Load a complete generator from the payload of a `GeneratorBundle`."""
    codec = load_codec(directory / CODEC_FOLDER)
    vae = load_vae(directory, codec, compute)
    latents = DiffusionLatents(*load_diffusion(directory, compute.device))
    if isinstance(vae, DocumentVae):
        return DocumentGenerator(vae, cast("TextCodec", codec), latents)
    # A copy: what `load_file` gives changes with the file.
    bias_V = load_file(directory / CALIBRATION_FILE)["bias"].clone()
    return Generator(vae, cast("RecordCodec", codec), latents, bias_V)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
