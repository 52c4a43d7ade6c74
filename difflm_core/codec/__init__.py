"""Records to tokens and back."""
