"""Benchmarks: `python -m tests.benchmarks [NAME ...] [--repeat N] [--scale F]`. They print figures and assert nothing."""
