"""The text-VAE: encoder, latent injection and language-model decoder."""
