"""Proposals of the next vector: sampler, acquisition, prefilter and mutation."""
