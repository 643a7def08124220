"""What recipes make of images, songs, series and maps of labels: a picture of each.

The images are scikit-learn's digits; birds, series and cells are made up. Pictures are drawn into
``out/``, or the folder that is given.
"""

import math
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_mixup import CutMix, Mixup, MixupCallback, OneOf, Overlay, Recipe, ResizeMix

BIRDS = ["robin", "wren", "chiffchaff", "blackbird"]


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[:16], torch.tensor(data.target[:16])


def songs() -> tuple[Tensor, Tensor]:
    """Returns spectrograms of four birds, each with its own height, speed and rhythm."""
    pitch, time = torch.arange(48.0).reshape(-1, 1), torch.arange(120.0)
    clips = []
    for bird in range(4):
        tone = 12 + 7 * bird + 5 * torch.sin(time / (3 + 2 * bird))
        loud = (time % (14 + 6 * bird) < 9).float()
        clips.append(loud * torch.exp(-(((pitch - tone) / 1.5) ** 2)))
    return torch.stack(clips).unsqueeze(1), torch.eye(4)


def series() -> tuple[Tensor, Tensor]:
    """Returns oscillations, and how fast each is, which is a quantity."""
    time, speed = torch.linspace(0, 2 * math.pi, 160), torch.tensor([1.0, 2.5, 4.0, 6.0])
    waves = torch.sin(speed.reshape(-1, 1) * time) * torch.exp(-time / 6)
    return torch.stack([waves, waves.cumsum(dim=1) / 30], dim=1), speed


def cells() -> tuple[Tensor, Tensor]:
    """Returns images of round cells, and which pixel belongs to which kind."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = torch.zeros(4, 64, 64, dtype=torch.long)
    for mask, places in zip(masks, torch.randint(8, 56, (4, 7, 2)), strict=True):
        for number, (top, left) in enumerate(places):
            mask[(y - top) ** 2 + (x - left) ** 2 < (40, 90, 150)[number % 3]] = 1 + number % 3
    colors = torch.tensor([[0.9, 0.8, 0.9], [0.5, 0.3, 0.7], [0.8, 0.4, 0.5], [0.4, 0.6, 0.7]])
    return colors[masks].movedim(-1, 1), masks


def main(out: Path = Path("out")) -> None:
    torch.manual_seed(0)
    pictures: dict[str, tuple[Recipe, tuple[Tensor, Tensor], int]] = {
        "mixed-digits": (Mixup(1.0), digits(), 9),
        "mixed-songs": (Overlay(), songs(), 0),
        "mixed-series": (Mixup(1.0, rounds=2), series(), 6),
        "mixed-cells": (OneOf(CutMix(1.0), ResizeMix()), cells(), 3),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, (recipe, batch, number) in pictures.items():
        callback, names = MixupCallback(recipe=recipe, seed=1), BIRDS if "songs" in name else None
        figure = callback.show(batch, count=2, number=number, class_names=names)
        figure.savefig(out / f"{name}.png", dpi=100)
    print(f"Pictures are in {out}: {', '.join(pictures)}.")


if __name__ == "__main__":
    main(out=Path(*sys.argv[1:] or ["out"]))
