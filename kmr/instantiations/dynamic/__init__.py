"""Dynamic networks: the computation depends on the input.

`ChannelGating` closes channels at run time; `kmr.meters.ExpectedMACs` reads the mean cost of a sample.
"""

from kmr.instantiations.dynamic.gating import ChannelGating

__all__ = ["ChannelGating"]
