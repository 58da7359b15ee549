"""Servers, hooks and clients of `benchmarks/click_path.py`."""
