"""What was computed before and need not be again: models on the way of a sequence, and any named tensors.

A cache is four parts. A key is a digest of everything a result depends on (`key_of`; `describe` says what an object is
in JSON). A `Store` keeps tensors and JSON under keys, shared by any number of processes. `models` turns a model into
those and back, to the last bit or not at all. `PrefixCache` chains keys along a sequence of moves, so that a run starts
from the longest beginning that some run has reached.

Calibration statistics, saliency scores, SVD factors and a teacher's answers are `derived`: kept where the run is made
with a store open (`keeping`).
"""

from kmr.cache.derived import derived, keeping
from kmr.cache.entry import Content, Entry
from kmr.cache.identity import describe, fingerprint
from kmr.cache.keys import key_of
from kmr.cache.models import NotStorable, from_content, to_content
from kmr.cache.prefix import PrefixCache
from kmr.cache.statistics import CacheWarning, Statistics
from kmr.cache.store import Store

__all__ = [
    "CacheWarning",
    "Content",
    "Entry",
    "NotStorable",
    "PrefixCache",
    "Statistics",
    "Store",
    "derived",
    "describe",
    "fingerprint",
    "from_content",
    "keeping",
    "key_of",
    "to_content",
]
