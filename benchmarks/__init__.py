"""Benchmarks: each sets ours beside a named baseline in one run, and exits 1 where it falls short of its bar."""
