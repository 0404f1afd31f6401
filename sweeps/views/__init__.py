"""Views of a study, made again from its storage at any time: card, tables, report and MLflow."""
