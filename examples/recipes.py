"""Recipes of mixing side by side, on two hundred handwritten digits, and on a regression.

Trains a small convolutional network on 200 of scikit-learn's digits and a small network on half
of its diabetes data, three times with each recipe. Prints what they make of the rest.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from statistics import mean, stdev

import torch
from lightning import LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_mixup import (
    CutMix,
    LabelKernel,
    Mixup,
    MixupCallback,
    OneOf,
    OtherClass,
    Recipe,
    RegMixup,
    ResizeMix,
)

OF_IMAGES: tuple[Recipe, ...] = (
    Mixup(0),  # mixes nothing
    Mixup(1.0),
    Mixup(1.0, per_sample=True, partners=OtherClass()),
    Mixup(1.0, rounds=2),
    CutMix(1.0),
    ResizeMix(),
    OneOf(Mixup(1.0), CutMix(1.0)),
    RegMixup(),
)
OF_NUMBERS = (Mixup(0), Mixup(2.0), Mixup(2.0, partners=LabelKernel(bandwidth=0.5)))

Task = Callable[[], tuple["Learner", TensorDataset, int]]  # with how many samples it trains


class Learner(LightningModule):
    """A plain module, for classes or for numbers."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return self.loss(self.network(inputs), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_loss", self.loss(self.network(inputs), targets))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def digits() -> tuple[Learner, TensorDataset, int]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return Learner(network, cross_entropy), TensorDataset(images, torch.tensor(data.target)), 200


def diabetes() -> tuple[Learner, TensorDataset, int]:
    data = load_diabetes()
    features = torch.tensor(data.data, dtype=torch.float32) * len(data.data) ** 0.5
    progression = torch.tensor(data.target, dtype=torch.float32).unsqueeze(1)
    standardised = (progression - progression.mean()) / progression.std()
    network = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    network.append(nn.Linear(64, 1))
    return Learner(network, mse_loss), TensorDataset(features, standardised), 221


def fit(make: Task, recipe: Recipe, seed: int, epochs: int) -> dict[str, float]:
    seed_everything(seed, verbose=False)
    module, data, count = make()
    train, val = random_split(data, [count, len(data) - count])
    has_classes = module.loss is cross_entropy
    trainer = Trainer(
        callbacks=[MixupCallback(recipe=recipe, calibration=has_classes)],
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256)
    trainer.fit(module, *loaders)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def compare(
    make: Task, recipes: Sequence[Recipe], names: dict[str, str], seeds: int, epochs: int
) -> Table:
    table = Table("recipe", *names.values(), title=make.__name__.capitalize())
    for recipe in recipes:
        runs = [fit(make, recipe, seed, epochs) for seed in range(seeds)]
        columns = [[run[key] for run in runs] for key in names]
        cells = [f"{mean(values):.3f} ± {stdev(values):.3f}" for values in columns]
        table.add_row(repr(recipe) if recipe.mixes else "no mixing", *cells)
    return table


def main(seeds: int = 3, epochs: int = 60) -> None:
    console = Console(highlight=False, width=110)
    names = {"val_accuracy": "accuracy", "val_ece": "ECE", "val_nll": "NLL"}
    console.print(compare(digits, OF_IMAGES, names, seeds, epochs))
    names = {"val_loss": "mean squared error"}
    console.print(compare(diabetes, OF_NUMBERS, names, seeds, epochs))


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # advice of Lightning's on tiny data
    torch.set_num_threads(1)  # a network this small gains nothing from more
    main()
