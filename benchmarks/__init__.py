"""How fast, beside what one would use instead, in the same run. `python -m benchmarks [question ...]`."""
