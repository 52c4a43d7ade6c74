"""Latent diffusion (EDM)."""
