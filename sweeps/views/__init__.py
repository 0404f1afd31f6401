"""Views of a study, which can be rebuilt from its storage at any time: card, tables, report and MLflow."""
