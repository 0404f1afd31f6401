"""Errors and warnings of a compression step, as types that a caller can distinguish."""


class KMRError(ValueError):
    """Bad input or an impossible request; the message names the value and says what to do."""


class NotApplicable(KMRError):
    """The refusal of a rule to transform this model at this value: the move is infeasible, the model unchanged."""


class NotHere(KMRError):
    """A package, device or counter that this machine or environment lacks; the message names it."""


class NonFiniteReading(KMRError):
    """A reading of NaN or infinity: the model has diverged, and its point must not enter a study."""


class CostRose(RuntimeError):
    """A cost that rose in fine-tuning, which masks, grids and structure must prevent: a bug in a rule."""


class RuleWarning(UserWarning):
    """A warning that a rule skipped something (an unsupported layer, no layer matched); recorded with the step."""
