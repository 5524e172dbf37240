"""Loopback servers that the real W&B and Neptune clients talk to in tests and benchmarks."""
