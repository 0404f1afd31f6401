"""The names under which a study keeps what Optuna has no place for: user attributes of its trials."""

OUTCOME = "kmr:outcome"
"""What a trial that was tried came to."""
OWNER = "kmr:owner"
"""Who runs a trial, and its number."""
INTERMEDIATE_OF = "kmr:intermediate_of"
"""On a model on the way of another trial: the number of that one."""


PROPOSAL = "kmr:proposal"
"""The user attribute that says how a trial was proposed: `rejected`, `replaced`, and `screened` if it ended there."""
