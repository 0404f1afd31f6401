"""Two small transformers in dynamic int8 and with int4 weights in ONNX Runtime: a part of `benchmarks.int8_runtime`.

A BERT-like encoder learns to distinguish Shakespeare from Wikipedia by 64 bytes of text. A GPT learns to continue bytes
of Shakespeare. Training is so short that the numbers show the loss by quantization, not the ability of such models.
Quality is measured on held-out text.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.data import Split
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy, CrossEntropy, SampleStatistics, Timing, WeightBytes, time_sessions
from kmr.meters.predictions import scored
from kmr.runtimes import Eager, OnnxRuntime, Session
from kmr.runtimes.onnxruntime import Precision

LENGTH, BATCH, WIDTH, DEPTH = 64, 8, 256, 4


class Encoder(nn.Module):
    """A BERT-like classifier of byte sequences, (n, length) → (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=256, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=4,
            intermediate_size=4 * WIDTH, max_position_embeddings=LENGTH,
        )  # fmt: skip
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        return self.bert(input_ids=tokens).logits  # type: ignore[no-any-return]


class Block(nn.Module):
    """A layer of a GPT: causal attention and a perceptron, each pre-norm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, length, width) to the same."""
        split = (self.attention(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)).unbind(0)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.projection(mixed)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A small GPT over bytes, (n, length) → (n, 256, length): the logits of each next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, 4) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, classes second."""
        x = self.tokens(tokens) + self.places.weight
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)  # type: ignore[no-any-return]


def measure_transformers(console: Console, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Train, quantize and measure both; print the table and return its figures."""
    try:
        import transformers
    except ImportError as error:
        console.print(f"transformers are not measured: {error}; run pip install 'kmr-sweeps[bench]'")
        return {"skipped": str(error)}
    cast(Any, transformers).logging.set_verbosity_error()
    shakespeare, wiki = _bytes(folder / "text/tinyshakespeare.txt"), _bytes(folder / "text/wikitext2-valid.txt")
    if shakespeare is None or wiki is None:
        console.print(f"transformers are not measured: no text in {folder / 'text'}")
        return {"skipped": "no text"}
    cut = int(0.9 * len(shakespeare)), int(0.9 * len(wiki))
    steps = 40 if quick else 200

    def both(which: slice) -> tuple[Tensor, Tensor]:
        texts = [_windows(text[: at] if which.start == 0 else text[at:], LENGTH, 512 if quick else 1024)
                 for text, at in zip((shakespeare, wiki), cut, strict=True)]  # fmt: skip
        return torch.cat(texts), torch.arange(2).repeat_interleave(len(texts[0]))

    def following(which: slice, count: int) -> tuple[Tensor, Tensor]:
        text = shakespeare[: cut[0]] if which.start == 0 else shakespeare[cut[0] :]
        windows = _windows(text, LENGTH + 1, count)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    train, test = slice(0, None), slice(1, None)
    figures: dict[str, Any] = {}
    table = Table(title="transformers in ONNX Runtime, one thread, not part of the bar", title_justify="left")
    for column in ("model", "form", "bytes", "share", "quality", "B=1 ms", f"B={BATCH} ms", "times as fast"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for label, make, splits in (
        ("BERT-like", Encoder, (both(train), both(test))),
        ("GPT", Decoder, (following(train, 4096), following(test, 256 if quick else 512))),
    ):
        torch.manual_seed(0)
        model = _train(make(), splits[0], steps).eval()
        figures[label] = _measure(label, model, Split(splits[1], 64), table, 20 if quick else 60)
    console.print(table)
    return figures


def _measure(label: str, model: nn.Module, test: Split, table: Table, repeats: int) -> dict[str, Any]:
    example = test.first_inputs(2)
    eager = Eager().prepare(model, example)
    forms: dict[str, Precision] = {"float32": "fp32", "dynamic int8": "int8_dynamic", "int4 weights": "int4"}
    sessions: dict[str, Session] = {
        name: OnnxRuntime(precision=precision).prepare(model, example) for name, precision in forms.items()
    }
    timed = {"eager": eager, **sessions}
    times = {batch: _time(timed, test.first_inputs(batch), repeats) for batch in (1, BATCH)}
    whole = len(sessions["float32"].artifact or b"")
    figures: dict[str, Any] = {}
    for name, session in timed.items():
        stored = None if session.artifact is None else len(session.artifact)
        quality = _quality(session, test)
        one, many = times[1][name], times[BATCH][name]
        faster = times[BATCH]["float32"].median / many.median
        table.add_row(
            label, name, "" if stored is None else f"{stored:,}", "" if stored is None else f"{stored / whole:.3f}",
            _format(quality), f"{one.median:.2f}", f"{many.median:.2f}", f"{faster:.2f}",
        )  # fmt: skip
        taken = {"1": round(one.median, 3), str(BATCH): round(many.median, 3)}
        figures[name] = {"bytes": stored, **quality, "ms": taken, "spread": round(many.spread, 3)}
    held = WeightQuantization(scheme="symmetric")(model, "quantize.bits", 4)
    packed, quality = int(WeightBytes()(held).value), _quality(Eager().prepare(held, example), test)
    table.add_row(label, "4 bits, packed", f"{packed:,}", f"{packed / whole:.3f}", _format(quality), "", "", "")
    figures["4 bits, packed"] = {"bytes": packed, **quality}
    return figures


def _time(sessions: dict[str, Session], batch: Tensor, repeats: int) -> dict[str, Timing]:
    return dict(zip(sessions, time_sessions(list(sessions.values()), batch, repeats=repeats), strict=True))


def _quality(session: Session, test: Split) -> dict[str, float]:
    with session.pinned():
        batches = list(scored(test, ((x, y, session(x)) for x, y in test.batches()), None))
    meters = (Accuracy(data=test), CrossEntropy(data=test))
    accuracy, loss = (
        meter.read(SampleStatistics(torch.cat([meter.statistics(b) for b in batches]))) for meter in meters
    )
    return {
        "accuracy": round(accuracy.value, 5), "accuracy_stderr": round(accuracy.stderr or 0.0, 5),
        "cross_entropy": round(loss.value, 5),
    }  # fmt: skip


def _format(quality: dict[str, float]) -> str:
    accuracy, stderr = 100 * quality["accuracy"], 100 * quality["accuracy_stderr"]
    return f"{accuracy:.2f} ± {stderr:.2f} %, {quality['cross_entropy']:.4f} nat"


def _train(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (16,), generator=generator)
        optimizer.zero_grad()
        loss(model(data[0][rows]), data[1][rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def _bytes(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.uint8]] | None":
    return np.frombuffer(path.read_bytes(), dtype=np.uint8) if path.is_file() else None


def _windows(text: "np.ndarray[tuple[int], np.dtype[np.uint8]]", length: int, count: int) -> Tensor:
    """Cut evenly spaced windows, (count, length)."""
    starts = np.linspace(0, len(text) - length, count).astype(int)
    return torch.from_numpy(np.stack([text[start : start + length] for start in starts]).astype(np.int64))
