"""What a corpus of code teaches a language model, asked by letting it write programs.

The indirect evaluation of Long et al. 2024 (arXiv 2406.15126, section 3.3): the same small model is
fine-tuned on real, on synthetic and on mixed code, and solves problems with tests.
"""
