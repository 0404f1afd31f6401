"""Rows of small models of transformers, made from a config and not downloaded; skipped where it is not installed."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.language import SIZES, WORDS, Texts, mask, sentences, tokens, topics
from benchmarks.any_model_rows.row import Readings, Row


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    model: nn.Module = BertForSequenceClassification(config)
    return model


def gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=32, n_embd=24, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    )
    return model


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=3, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, num_labels=3,
    )  # fmt: skip
    model: nn.Module = ViTForImageClassification(config)
    return model


def texts() -> dict[str, Any]:
    return {part: Texts(part) for part in SIZES}


def pictures() -> dict[str, Any]:
    found = {}
    for part in SIZES:
        y = torch.arange(SIZES[part]) % 3
        x = torch.randn(SIZES[part], 3, 8, 8, generator=torch.Generator().manual_seed(len(part)))
        found[part] = {"pixel_values": x + nn.functional.one_hot(y, 3)[:, :, None, None], "labels": y}
    return found


def topics_of(model: nn.Module) -> Readings:
    return plain.classes(model, {"input_ids": tokens("test"), "attention_mask": mask("test")}, topics("test"))


def next_of(model: nn.Module) -> Readings:
    ids, seen = tokens("test"), mask("test")
    logits = plain.logits_of(model, {"input_ids": ids, "attention_mask": seen})[:, :-1]
    targets = ids[:, 1:].masked_fill(seen[:, 1:] == 0, -100)
    return plain.of_logits(logits.reshape(-1, WORDS), targets.reshape(-1))


def pictures_of(model: nn.Module) -> Readings:
    given = pictures()["test"]
    return plain.classes(model, {"pixel_values": given["pixel_values"]}, given["labels"])


def _tokens() -> dict[str, Tensor]:
    return {"input_ids": tokens("test"), "attention_mask": mask("test")}


_NEEDS: Any = {"needs": ("transformers",), "trials": 3}

ROWS = (
    Row(
        name="bert_classifier", build=bert, data=sentences, truth=topics_of, rules=("structured", "quantize"),
        qualities=("accuracy", "cross_entropy"), epochs=10, export="pt2", inputs=_tokens, **_NEEDS,
    ),
    Row(
        name="gpt2_language_model", build=gpt, data=texts, truth=next_of, rules=("quantize", "depth"), epochs=10,
        qualities=("perplexity", "accuracy"), export=None, inputs=_tokens, **_NEEDS,
    ),
    Row(
        name="vit_low_rank", build=vit, data=pictures, truth=pictures_of, rules=("lowrank", "structured"), epochs=10,
        qualities=("accuracy", "cross_entropy"), export="pt2", learns={"accuracy": 0.7}, **_NEEDS,
    ),
)  # fmt: skip
