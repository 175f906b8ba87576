"""Benchmarks: `python -m benchmarks NAME`; `python -m benchmarks list` names them."""
