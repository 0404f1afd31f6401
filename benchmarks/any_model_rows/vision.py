"""Rows of images, volumes and signals: segmentation, detection, normalisation, residuals, and unlucky batches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.boxes import mean_average_precision
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 100, "validation": 40, "test": 45}


def noise(part: str, *shape: int, count: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(50 + sorted(SIZES).index(part))
    return torch.randn(count or SIZES[part], *shape, generator=random)


def scene(part: str) -> tuple[Tensor, Tensor]:
    """Return images and the strongest channel of each pixel; the border does not count."""
    x = noise(part, 3, 8, 8)
    masks = x.argmax(1)
    masks[:, 0] = masks[:, :, -1] = 255
    return x, masks


def scenes(form: str = "plain") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in SIZES:
        x, masks = scene(part)
        found[part] = (x, masks[:, None].to(torch.uint8) if form == "bytes" else masks)
    return found


def segmenter() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))


class Coarse(nn.Module):
    """A segmenter with logits of half the resolution under `out`, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classifier = nn.Conv2d(3, 12, 2, stride=2), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.backbone(x))
        return {"out": self.classifier(hidden), "aux": hidden}


def pixels_of(model: nn.Module) -> Readings:
    x, masks = scene("test")
    logits = plain.logits_of(model, x).movedim(1, -1)
    return plain.of_logits(logits.reshape(-1, 3), masks.reshape(-1), ignore=255)


class Enlarged(nn.Module):
    """The logits of a coarse segmenter at the resolution of the image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.model(x)["out"], size=(8, 8), mode="bilinear", align_corners=False)


def coarse_pixels_of(model: nn.Module) -> Readings:
    return pixels_of(Enlarged(model))


class Squares(Dataset[Any]):
    """Images with one or two bright squares of two sizes, in torchvision's convention."""

    def __init__(self, part: str) -> None:
        random = torch.Generator().manual_seed(60 + sorted(SIZES).index(part))
        self.corners = torch.randint(0, 8, (SIZES[part], 2), generator=random)
        self.sizes = torch.randint(0, 2, (SIZES[part],), generator=random) * 3 + 4

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        (x, y), size = self.corners[place].tolist(), int(self.sizes[place])
        image = torch.zeros(1, 16, 16)
        image[:, y : y + size, x : x + size] = 1
        box = torch.tensor([[x, y, x + size, y + size]], dtype=torch.float32)
        return image, {"boxes": box, "labels": torch.tensor([1 if size < 6 else 2])}

    @staticmethod
    def collate_fn(samples: list[Any]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return lists, since boxes differ in number."""
        return [image for image, _ in samples], [target for _, target in samples]


class Detector(nn.Module):
    """A detector of one box in an image, which computes its own losses in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 48), nn.ReLU())
        self.box, self.kind = nn.Linear(48, 4), nn.Linear(48, 2)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        hidden = self.body(torch.stack(list(images)))
        boxes, logits = 16 * self.box(hidden), self.kind(hidden)
        if targets is not None:
            true = torch.cat([one["boxes"] for one in targets])
            labels = torch.cat([one["labels"] for one in targets]) - 1
            return {
                "boxes": nn.functional.l1_loss(boxes, true), "labels": nn.functional.cross_entropy(logits, labels)
            }  # fmt: skip
        scores, kinds = logits.softmax(1).max(1)
        return [
            {"boxes": box[None], "labels": kind[None] + 1, "scores": score[None]}
            for box, kind, score in zip(boxes, kinds, scores, strict=True)
        ]


def squares() -> dict[str, Any]:
    return {part: Squares(part) for part in SIZES}


def square_loaders() -> dict[str, Any]:
    return {part: DataLoader(Squares(part), 16, collate_fn=Squares.collate_fn) for part in SIZES}


def boxes_of(model: nn.Module) -> Readings:
    images, targets = Squares.collate_fn([Squares("test")[place] for place in range(SIZES["test"])])
    model.eval()
    with torch.no_grad():
        return {"map": mean_average_precision(model(images), targets)}


class Residual(nn.Module):
    """A small ResNet with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.one, self.two, self.inner = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.two(torch.relu(self.inner(self.one(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def mobile() -> nn.Module:
    """Return depthwise separable convolutions with group normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.GroupNorm(3, 12), nn.SiLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Hardswish(),
        nn.Conv2d(12, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 16, 3, padding=2, dilation=2), nn.ReLU(), nn.ConvTranspose1d(16, 8, 2, stride=2), nn.LeakyReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2),
    )  # fmt: skip


def images() -> dict[str, Any]:
    found = {}
    for part in SIZES:
        y = torch.arange(SIZES[part]) % 3
        found[part] = (noise(part, 3, 6, 6) + nn.functional.one_hot(y, 3)[:, :, None, None], y)
    return found


def volumes() -> dict[str, Any]:
    return {part: _shifted(noise(part, 1, 4, 4, 4)) for part in SIZES}


def signals() -> dict[str, Any]:
    return {part: _shifted(noise(part, 2, 16)) for part in SIZES}


def _shifted(x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(x)) % 2
    return x + y.reshape(-1, *[1] * (x.dim() - 1)), y


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))


def rows(train: int = 129, test: int = 45) -> dict[str, Any]:
    """Return as many rows as leave a last batch of one."""
    sizes = {"train": train, "validation": 40, "test": test}
    return {part: _shifted(noise(part, 6, count=count)) for part, count in sizes.items()}


def few_rows() -> dict[str, Any]:
    return rows(train=65, test=3)


def dropping_loaders() -> dict[str, Any]:
    sets = {part: TensorDataset(*pair) for part, pair in rows().items()}
    return {
        "train": DataLoader(sets["train"], 64, shuffle=True, drop_last=True),
        "validation": DataLoader(sets["validation"], 16), "test": DataLoader(sets["test"], 16, drop_last=True),
    }  # fmt: skip


def kept_of(model: nn.Module) -> Readings:
    """Return the readings of the samples in full batches."""
    x, y = rows()["test"]
    return plain.classes(model, x[:32], y[:32])


def _row(name: str, build: Any, data: Any, *rules: str, **others: Any) -> Row:
    given: dict[str, Any] = {
        "truth": plain.on(data), "qualities": ("accuracy", "cross_entropy"), "epochs": 10, "learns": {"accuracy": 0.7},
        **others,
    }  # fmt: skip
    return Row(name=name, build=build, data=data, rules=rules, **given)


def _pixels(name: str, build: Any, truth: Any, **settings: Any) -> Row:
    task = {"task": {"_target_": "kmr.tasks.Segmentation", "ignore_index": 255, **settings.pop("task", {})}}
    return Row(
        name=name, build=build, data=scenes, truth=truth, rules=("structured", "quantize"), epochs=30,
        qualities=("iou", "accuracy", "cross_entropy"), settings={**task, **settings}, trials=3,
    )  # fmt: skip


_SMALL_STEPS = {"train": {"accumulate": 3, "drop_last": True}, "finetune": {"accumulate": 2}, "batch_size": 16}

ROWS = (
    _pixels("segmentation_with_a_border", segmenter, pixels_of),
    _pixels("segmentation_of_bytes", segmenter, pixels_of, data={"form": "bytes"}),
    _pixels("segmentation_of_half_resolution", Coarse, coarse_pixels_of, task={"resize": True}),
    Row(name="segmentation_without_a_word", build=segmenter, data=scenes, refuses=("255", "task.ignore_index")),
    Row(
        name="detection", build=Detector, data=squares, truth=boxes_of, rules=("prune", "quantize"), qualities=("map",),
        epochs=25, export=None, learns={"map": 0.1}, settings={"train": {"optimizer": {"lr": 0.005}}},
    ),
    Row(
        name="detection_by_loaders_structured", build=Detector, data=square_loaders, truth=boxes_of, qualities=("map",),
        rules=("structured", "lowrank"), epochs=25, export=None, settings={"train": {"optimizer": {"lr": 0.005}}},
    ),
    _row("residual_batchnorm", Residual, images, "structured", "quantize", "depth"),
    _row("depthwise_groupnorm", mobile, images, "structured", "quantize"),
    _row("static_int8", Residual, images, "static", precision="auto", close=0.1,
         settings={"space": {"static": {"bits": {"values": [8, 7]}}}}),
    _row("volumes", volume, volumes, "structured", "quantize"),
    _row("signals_transposed", signal, signals, "structured", "lowrank", "quantize"),
    _row("last_batch_of_one", normed, rows, "structured", "quantize", settings={"batch_size": 64}),
    _row("three_rows_of_test_data", normed, few_rows, "prune", "quantize", learns={}),
    _row("drop_last_and_accumulate", normed, rows, "structured", "quantize", settings=_SMALL_STEPS),
    _row(
        "loaders_that_drop_the_last", normed, dropping_loaders, "prune", "quantize", truth=kept_of,
        inputs=lambda: rows()["test"][0],
    ),
)  # fmt: skip
