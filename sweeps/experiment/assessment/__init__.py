"""Assessment after the search: noise, held-out test data, layers and degradation."""
