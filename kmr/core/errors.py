"""The ways a compression step can end badly, as types a caller can tell apart."""


class KMRError(ValueError):
    """Bad input or an impossible request; the message names the value and the way out."""


class NotApplicable(KMRError):
    """A rule cannot be applied to this model at this value: the move is infeasible, the model is untouched."""


class NotHere(KMRError):
    """This machine or environment lacks what is asked for: a package, a device, a counter; the message says which."""


class NonFiniteReading(KMRError):
    """A meter read NaN or infinity: the model has diverged and its point must not enter a study."""


class CostRose(RuntimeError):
    """Fine-tuning raised a cost, which masks, grids and structure must make impossible: a bug in a rule."""


class RuleWarning(UserWarning):
    """A rule left something undone (a layer it cannot handle, nothing matched); recorded with the step."""
