"""Dynamic networks: what is computed depends on the input.

`ChannelGating` closes channels at run time; `kmr.meters.ExpectedMACs` reads what that takes on average.
"""

from kmr.instantiations.dynamic.gating import ChannelGating

__all__ = ["ChannelGating"]
