"""Saving and loading what generation needs: codec, text-VAE, diffusion.

codec/               schema and tokens
vae.json             architecture of the text-VAE     vae.safetensors        weights
diffusion.json       architecture and sampler         diffusion.safetensors  weights, scaler
calibration.safetensors   bias of every token's logit
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_model

from difflm_core.codec.records import RecordCodec
from difflm_core.device import Compute
from difflm_core.diffusion.model import DenoiserSize, LatentDiffusion, SamplerOptions
from difflm_core.generation.generator import DiffusionLatents, Generator
from difflm_core.vae.decoder import DecoderSize
from difflm_core.vae.encoder import EncoderSize
from difflm_core.vae.model import TextVae, VaeSize

CODEC_FOLDER = "codec"
CALIBRATION_FILE = "calibration.safetensors"


def save_vae(vae: TextVae, directory: Path) -> None:
    """Write the text-VAE's architecture and weights."""
    _write_json(directory / "vae.json", asdict(vae.size))
    save_model(vae, str(directory / "vae.safetensors"))


def load_vae(directory: Path, codec: RecordCodec, compute: Compute) -> TextVae:
    """Inverse of `save_vae`, for the records of `codec`; in eval mode."""
    data = _read_json(directory / "vae.json")
    data["decoder"] = DecoderSize(**data["decoder"])
    data["encoder"] = EncoderSize(**data["encoder"])
    data["hidden_slots"] = tuple(data["hidden_slots"])
    vae = TextVae(VaeSize(**data), codec.grammar)
    load_model(vae, directory / "vae.safetensors")
    return vae.to(compute.device).use_precision(compute.precision).eval()


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


def load_generator(directory: Path, compute: Compute) -> Generator:
    """Load a complete generator from the payload of a `GeneratorBundle`."""
    codec = RecordCodec.load(directory / CODEC_FOLDER)
    vae = load_vae(directory, codec, compute)
    diffusion, sampler = load_diffusion(directory, compute.device)
    # A copy: what `load_file` gives changes with the file.
    bias_V = load_file(directory / CALIBRATION_FILE)["bias"].clone()
    return Generator(vae, codec, DiffusionLatents(diffusion, sampler), bias_V)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
