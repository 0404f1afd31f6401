"""Dynamic networks: what is computed depends on the input.

`ChannelGating` closes channels at run time; `kmr.meters.ExpectedMACs` reads what that takes on average.
`dynamic_gating` is the two as an instantiation.
"""

from kmr.instantiations.dynamic.gating import ChannelGating, dynamic_gating

__all__ = ["ChannelGating", "dynamic_gating"]
