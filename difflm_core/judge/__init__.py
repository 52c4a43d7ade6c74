"""A language model as a judge of synthetic tools: quality scores and preferences.

Source: DiffLM (arXiv 2411.03250), the experiments on tools.
"""
