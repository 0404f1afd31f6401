"""The experiment: one model's search, from a config to trials and a saved front."""
