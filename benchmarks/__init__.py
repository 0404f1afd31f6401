"""Benchmarks that compare ours with a named baseline in one run and exit 1 below their bar."""
