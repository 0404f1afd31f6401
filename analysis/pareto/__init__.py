"""Pareto arithmetic on arrays: dominance, hypervolume, indicators, attainment and probability."""
