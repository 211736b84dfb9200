"""Measurements: one script per question, run as `python -m benchmarks.step`; see README.md."""
