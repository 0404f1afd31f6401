"""Caching of intermediate models along a sequence of moves, and of any named tensors.

A cache has four parts. A key is a digest of everything a result depends on (`key_of`; `describe` turns an object into
JSON). A `Store` keeps tensors and JSON under keys and can be shared by any number of processes. `models` converts a
model to those and back, exactly or not at all. `PrefixCache` chains keys along a sequence of moves: a run starts from
the longest prefix that any run has reached.

Calibration statistics, saliency scores, SVD factors and a teacher's outputs are `derived`: cached while a store is open
(`keeping`).
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
