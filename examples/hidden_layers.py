"""Manifold Mixup on handwritten digits: mixed at the input, and at hidden layers, too.

Trains a small residual network on half of scikit-learn's digits, with 40 % of the labels replaced
at random, three times each: with no mixup, with mixup of the images, and with the place drawn for
each batch. Prints what it makes of the other half, whose labels are right.
"""

import logging
import warnings
from statistics import mean, stdev

import torch
from lightning import LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixup import MixupCallback

CALLBACKS = {
    "no mixup": {"alpha": 0},
    "the input": {"alpha": 2.0},
    # Behind residual blocks, never inside their branch.
    "the input, stem and blocks": {"alpha": 2.0, "layers": ["input", "stem", "blocks.*"]},
}


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.branch = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class DigitClassifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.blocks = nn.Sequential(Block(32), nn.MaxPool2d(2), Block(32))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", cross_entropy(self(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def fit(seed: int, epochs: int, **settings: object) -> dict[str, float]:
    seed_everything(seed, verbose=False)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, val = torch.randperm(len(labels)).chunk(2)
    victims = train[: int(0.4 * len(train))]
    labels[victims] = torch.randint(10, victims.shape)
    train_data, val_data = (TensorDataset(images[half], labels[half]) for half in (train, val))
    trainer = Trainer(
        callbacks=[MixupCallback(**settings)],
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = (
        DataLoader(train_data, batch_size=64, shuffle=True),
        DataLoader(val_data, batch_size=64),
    )
    trainer.fit(DigitClassifier(), *loaders)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def main(seeds: int = 3, epochs: int = 30) -> None:
    model = DigitClassifier()
    console = Console(highlight=False)
    console.print("Layers that can be mixed, and the shape of what they put out:")
    for name, shape in MixupCallback.suggest_layers(model, torch.rand(2, 1, 8, 8)):
        console.print(f"  {name:16} {shape}")
    table = Table("mixed at", "accuracy", "ECE", "NLL")
    for name, settings in CALLBACKS.items():
        runs = [fit(seed, epochs, **settings) for seed in range(seeds)]
        columns = [[run[key] for run in runs] for key in ("val_accuracy", "val_ece", "val_nll")]
        table.add_row(name, *(f"{mean(values):.3f} ± {stdev(values):.3f}" for values in columns))
    console.print(table)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.")  # advice and deprecations
    torch.set_num_threads(1)  # a network this small gains nothing from more
    main()
