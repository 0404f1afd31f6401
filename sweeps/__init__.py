"""The sweep harness: turns a config into a study, and knob vectors into measured, saved models."""
