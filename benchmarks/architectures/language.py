"""Language models of `transformers`, built from a config with random weights; nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def bert() -> nn.Module:
    """Build a BERT classifier of two layers."""
    from transformers import BertConfig, BertForSequenceClassification

    settings: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "num_labels": 3, "max_position_embeddings": 16,
    }  # fmt: skip
    made: nn.Module = BertForSequenceClassification(BertConfig(**settings))
    return made


def gpt2() -> nn.Module:
    """Build a GPT-2 of two layers, with transposed linear weights and a head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: dict[str, Any] = {
        "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "use_cache": False,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    made: nn.Module = GPT2LMHeadModel(GPT2Config(**settings))
    return made


def llama() -> nn.Module:
    """Build a Llama of two layers: gated linear units, grouped-query attention, rotary positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 16, "use_cache": False,
    }  # fmt: skip
    made: nn.Module = LlamaForCausalLM(LlamaConfig(**settings))
    return made


def _tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 40, (2, 6))}


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "bert (transformers)": (bert, _tokens),
    "gpt-2 (transformers)": (gpt2, _tokens),
    "llama (transformers)": (llama, _tokens),
}
