"""Configuration groups: one YAML for each part and for each experiment."""
