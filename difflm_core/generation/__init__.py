"""Latents to records."""
