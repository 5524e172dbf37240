"""Soak test: `python -m tests.soak --minutes 10 --seed 7`. Whatever happens on the way, every point must arrive."""
