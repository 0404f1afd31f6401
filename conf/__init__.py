"""The configuration groups: one YAML for each part, one for each experiment."""
