"""Techniques as rules over one vocabulary: a folder is a family, a file in it a rule.

A compression method falls into three parts here. What it decides is a pure function on tensors (which weights to keep,
which channels to remove, where levels lie, which factors). What holds the decision through training is a representation
from `kmr.representation.weights` (a mask, a grid) or the architecture itself (a smaller layer, two layers for one).
Which layers it reaches, and what it reports having left alone, is the rule, a thin class over `layers.LayerRule`.

- `pruning`: masks (`UnstructuredPruning`, `PatternPruning`), channels by dependency groups (`StructuredPruning`), both
  in steps (`Gradual`), masks found by training (`LotteryTicket`).
- `dynamic`: channels that each input closes for itself (`ChannelGating`).
- `recovery`: what a smaller model wins back without training (`Recovery`).
- `quantization`: weights on uniform grids (`WeightQuantization`) or few shared values (`WeightClustering`), weights and
  activations (`StaticQuantization`, `DynamicQuantization`), and bits for each layer (`measure_sensitivity`).
- `lowrank`: truncated singular values, of the weights or of what they make of their inputs (`LowRank`).
- `tensor`: Tucker, CP and tensor-train decompositions of weights (`TensorDecomposition`).
- `sharing`: layers of one shape as one layer, used in several places (`WeightSharing`), and whole blocks
  (`BlockSharing`).
- `peft`: adapters that are trained in place of weights and merged (`LowRankAdaptation`, a fine-tuning recipe), or that
  stay in a frozen model (`BottleneckAdapters`).
- `architecture`: blocks that are left out (`DropBlocks`), exits for easy samples (`EarlyExit`).
- `distillation`: students (`Distillation`), and what teachers teach in any fine-tuning (guides).

Rules compose in any order: a grid is kept under a mask and the other way round, both are cut along with channels, and
low-rank factors get grids of their own. Only a mask does not survive factorisation, which its rule says.
"""
