"""Dynamic networks: the computation depends on the input.

`ChannelGating` closes channels at run time; `kmr.meters.ExpectedMACs` reads the mean cost of a sample. `dynamic_gating`
combines the two to an instantiation.
"""

from kmr.instantiations.dynamic.gating import ChannelGating, dynamic_gating

__all__ = ["ChannelGating", "dynamic_gating"]
