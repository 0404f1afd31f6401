"""Rows of sequences: language models, token classes, attention masks, recurrent models and transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 120, "validation": 40, "test": 45}
WORDS = 16
LENGTH = 16  # as many places as words: nobody can tell the axes apart by their sizes


def tokens(part: str, noise: float = 0.1) -> Tensor:
    """Return sequences in which the next token follows from the last one, apart from some noise."""
    random = torch.Generator().manual_seed(40 + sorted(SIZES).index(part))
    found = torch.randint(1, WORDS, (SIZES[part], LENGTH), generator=random)
    for place in range(1, LENGTH):
        rule = (found[:, place - 1] * 5 + 3) % (WORDS - 1) + 1
        kept = torch.rand(SIZES[part], generator=random) > noise
        found[:, place] = torch.where(kept, rule, found[:, place])
    return found


def mask(part: str) -> Tensor:
    """Return 1 for tokens and 0 for padding, which is at the end."""
    lengths = 8 + torch.arange(SIZES[part]) % (LENGTH - 7)
    return (torch.arange(LENGTH)[None] < lengths[:, None]).long()


class Bigram(nn.Module):
    """A language model that returns an object with logits (n, length, words)."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(WORDS, 24), nn.Linear(24, 24)
        self.head = nn.Linear(24, WORDS, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        return {"logits": self.head(hidden + torch.tanh(self.body(hidden)))}


class Causal(nn.Module):
    """A small GPT: a causal transformer encoder."""

    def __init__(self, classes: int = WORDS, causal: bool = True) -> None:
        super().__init__()
        self.causal, self.words, self.places = causal, nn.Embedding(WORDS, 24), nn.Parameter(torch.zeros(LENGTH, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        seen = nn.Transformer.generate_square_subsequent_mask(LENGTH) if self.causal else None
        hidden = self.body(self.words(input_ids) + self.places, mask=seen, is_causal=self.causal)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class Sentence(nn.Module):
    """A classifier of sentences with torch's attention and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(WORDS, 24), nn.MultiheadAttention(24, 4, batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = x + self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        share = attention_mask[..., None].to(x)
        logits: Tensor = self.head((x * share).sum(1) / share.sum(1))
        return logits


class Cached(nn.Module):
    """A model that returns its keys and values beside the logits where its config says so."""

    class Config:
        """Settings in transformers' style."""

        use_cache = True

    def __init__(self) -> None:
        super().__init__()
        self.config, self.words = Cached.Config(), nn.Embedding(WORDS, 24)
        self.key, self.head = nn.Linear(24, 24), nn.Linear(24, WORDS)

    def forward(self, input_ids: Tensor) -> dict[str, Any]:
        hidden = torch.relu(self.key(self.words(input_ids)))
        cache = {"past_key_values": ((hidden, hidden),)} if self.config.use_cache else {}
        return {"logits": self.head(hidden), **cache}


class Recurrent(nn.Module):
    """A tagger by an LSTM, with a class for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(WORDS, 16), nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.words(input_ids))[0])
        return logits


def tied() -> nn.Module:
    return Bigram(tied=True)


def bidirectional() -> nn.Module:
    return Causal(causal=False)


class Texts(Dataset[Any]):
    """Samples as a tokenizer and a collator give them: dicts with the labels inside."""

    def __init__(self, part: str) -> None:
        self.ids, self.mask = tokens(part), mask(part)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        ids, seen = self.ids[place], self.mask[place]
        return {"input_ids": ids, "attention_mask": seen, "labels": ids.masked_fill(seen == 0, -100)}


def samples() -> dict[str, Any]:
    return {part: Texts(part) for part in SIZES}


def unlabelled() -> dict[str, Any]:
    return {part: {"input_ids": tokens(part), "attention_mask": mask(part)} for part in SIZES}


def next_tokens() -> dict[str, Any]:
    return {part: (tokens(part)[:, :-1], tokens(part)[:, 1:]) for part in SIZES}


def same_tokens() -> dict[str, Any]:
    return {part: ({"input_ids": tokens(part)}, tokens(part)) for part in SIZES}


def tagged() -> dict[str, Any]:
    """Return token classes; two places of each sequence do not count."""
    return {part: ({"input_ids": tokens(part)}, tags(part)) for part in SIZES}


def tags(part: str) -> Tensor:
    found = tokens(part) % 3
    found[:, 0] = found[:, -1] = -100
    return found


def masked() -> dict[str, Any]:
    """Return sequences with hidden tokens (number 0), and those tokens as targets, −100 elsewhere."""
    found = {}
    for part in SIZES:
        ids = tokens(part, noise=0.0)
        hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.25
        found[part] = ({"input_ids": ids.masked_fill(hidden, 0)}, ids.masked_fill(~hidden, -100))
    return found


def sentences() -> dict[str, Any]:
    return {part: {"input_ids": tokens(part), "attention_mask": mask(part), "label": topics(part)} for part in SIZES}


def topics(part: str) -> Tensor:
    return (tokens(part)[:, :8].sum(1) // 20 % 3).clamp(max=2)


def next_of(model: nn.Module) -> Readings:
    """Return the readings of next tokens, each predicted from the tokens before it, without padding."""
    ids, seen = tokens("test"), mask("test")
    logits = plain.logits_of(model, {"input_ids": ids, "attention_mask": seen})[:, :-1]
    targets = ids[:, 1:].masked_fill(seen[:, 1:] == 0, -100)
    return plain.of_logits(logits.reshape(-1, WORDS), targets.reshape(-1))


def every_next_of(model: nn.Module) -> Readings:
    ids = tokens("test")
    logits = plain.logits_of(model, ids)[:, :-1]
    return plain.of_logits(logits.reshape(-1, WORDS), ids[:, 1:].reshape(-1))


def shifted_of(model: nn.Module) -> Readings:
    ids, following = next_tokens()["test"]
    return plain.classes(model, ids, following)


def tags_of(model: nn.Module) -> Readings:
    return plain.classes(model, tokens("test"), tags("test"))


def masked_of(model: nn.Module) -> Readings:
    inputs, targets = masked()["test"]
    return plain.classes(model, inputs, targets)


def topics_of(model: nn.Module) -> Readings:
    return plain.classes(model, {"input_ids": tokens("test"), "attention_mask": mask("test")}, topics("test"))


def _named() -> dict[str, Tensor]:
    return {"input_ids": tokens("test"), "attention_mask": mask("test")}


def _ids() -> dict[str, Tensor]:
    return {"input_ids": tokens("test")}


def _task(name: str, **settings: Any) -> dict[str, Any]:
    return {"task": {"_target_": f"kmr.tasks.{name}", **settings}}


_CAUSAL = ("perplexity", "accuracy", "bits_per_byte")

ROWS = (
    Row(
        name="causal_lm_samples", build=Bigram, data=samples, truth=next_of, qualities=_CAUSAL, epochs=20,
        rules=("quantize", "lowrank"), settings=_task("CausalLM"), inputs=_named, learns={"accuracy": 0.8},
    ),
    Row(
        name="causal_lm_without_labels", build=tied, data=unlabelled, truth=next_of, qualities=_CAUSAL, epochs=20,
        rules=("quantize", "prune"), settings=_task("CausalLM"), inputs=_named,
    ),
    Row(
        name="samples_without_labels", build=tied, data=unlabelled, truth=next_of, qualities=("accuracy",),
        refuses=("no targets", "CausalLM"),
    ),
    Row(
        name="causal_lm_transformer", build=Causal, data=same_tokens, truth=every_next_of, qualities=_CAUSAL, epochs=8,
        rules=("structured", "quantize"), settings=_task("CausalLM"), trials=3, inputs=_ids, learns={"accuracy": 0.6},
    ),
    Row(
        name="causal_lm_of_next_tokens", build=Bigram, data=next_tokens, truth=shifted_of, qualities=_CAUSAL, epochs=20,
        rules=("structured", "quantize"), settings=_task("CausalLM", shifted=True), learns={"accuracy": 0.8},
    ),
    Row(
        name="causal_lm_with_a_cache", build=Cached, data=same_tokens, truth=every_next_of, epochs=20,
        qualities=_CAUSAL, rules=("structured", "quantize"), settings=_task("CausalLM"), inputs=_ids,
        learns={"accuracy": 0.8},
    ),
    Row(
        name="masked_lm", build=bidirectional, data=masked, truth=masked_of, qualities=("cross_entropy", "accuracy"),
        rules=("quantize", "depth"), settings=_task("MaskedLM"), trials=3,
    ),
    Row(
        name="token_classes_by_lstm", build=Recurrent, data=tagged, truth=tags_of, qualities=("f1", "accuracy"),
        rules=("structured", "quantize"), inputs=_ids, learns={"accuracy": 0.8}, settings=_task("TokenClassification"),
    ),
    Row(
        name="sentences_with_attention", build=Sentence, data=sentences, truth=topics_of, epochs=20,
        qualities=("accuracy", "cross_entropy"), rules=("structured", "quantize"), inputs=_named,
        learns={"accuracy": 0.5},
    ),
)  # fmt: skip
