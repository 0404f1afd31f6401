"""Compression techniques as rules over one vocabulary: each folder is a family, each file in it a rule.

A compression method has three parts here. The decision is a pure function on tensors (which weights to keep, which
channels to remove, where to place levels, which factors). The representation preserves the decision in training: a mask
or grid of `kmr.representation.weights`, or the architecture itself (a smaller layer, two layers for one). The rule is a
thin class over `layer_rule.LayerRule`: it selects the layers and reports those it skips.

- `pruning`: masks (`UnstructuredPruning`, `PatternPruning`), channels by dependency groups (`StructuredPruning`), both
  in steps (`Gradual`), masks found by training (`LotteryTicket`).
- `dynamic`: channels that each input skips (`ChannelGating`).
- `recovery`: recovery of quality without training (`Recovery`).
- `quantization`: weights on uniform grids (`WeightQuantization`) or few shared values (`WeightClustering`), weights and
  activations (`StaticQuantization`, `DynamicQuantization`), and bits for each layer (`measure_sensitivity`).
- `lowrank`: truncated singular values, of the weights or of their outputs (`LowRank`).
- `tensor`: Tucker, CP and tensor-train decompositions of weights (`TensorDecomposition`).
- `sharing`: layers of the same shape as one layer, used in several places (`WeightSharing`), and whole blocks
  (`BlockSharing`).
- `peft`: adapters trained instead of the weights and merged (`LowRankAdaptation`, a fine-tuning recipe), or added to a
  frozen model (`BottleneckAdapters`).
- `architecture`: removal of blocks (`DropBlocks`), exits for easy samples (`EarlyExit`).
- `distillation`: students (`Distillation`), and teachers for any fine-tuning (guides).

Rules compose in any order: grids and masks preserve each other, removing channels cuts both, and low-rank factors get
their own grids. Only a mask does not survive factorisation; the rule reports it.
"""
