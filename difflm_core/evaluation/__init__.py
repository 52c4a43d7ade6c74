"""How good and how private synthetic data is."""
