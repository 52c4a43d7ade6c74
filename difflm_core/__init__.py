"""DiffLM: synthetic structured data from latent diffusion and a language model."""
