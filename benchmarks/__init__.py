"""Benchmarks, one script per question: `python -m benchmarks.step`. Results: README.md."""
