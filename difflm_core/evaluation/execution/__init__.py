"""Code that is judged by running it: problem sets, and pass@k."""
