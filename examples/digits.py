"""Mixup on handwritten digits, with clean and with corrupted training labels.

Trains a small convolutional network with and without mixup, from three seeds each. Prints how
accurate and how well calibrated it is on the half of the images that it never saw, and draws
reliability diagrams. The network knows nothing of mixup: a `MixupCallback` does it all.
"""

import logging
import warnings
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch
from lightning import LightningModule, Trainer, seed_everything
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

from lightning_mixup import MixupCallback, ReliabilityBins, reliability_diagram

ALPHAS = (0, 0.2, 1)  # 0 mixes nothing and still reports: the baseline
REPLACED = {"clean": 0.0, "corrupted": 0.4}  # the share of training labels made random
# What `MixupCallback` logs, as val_accuracy and so on; its heading here and its format.
LOGGED = {
    "accuracy": ("accuracy", ".3f"),
    "ece": ("ECE", ".3f"),
    "confidence_gap": ("confidence gap", "+.3f"),
    "nll": ("NLL", ".3f"),
}
NOTES = (
    "Means ± standard deviations over seeds, on the half of the images held out. Corrupted: 40 % "
    "of the training labels replaced by any of the ten classes at random. Alpha 0: no mixup. "
    "Confidence gap: mean confidence minus accuracy. ECE has no sign, so read the gap beside it: "
    "above zero, the network is over-confident; below zero, under-confident.\n"
)

Figures = dict[tuple[str, float, str], list[float]]  # by labels, alpha and name; one per seed


class DigitClassifier(LightningModule):
    """A plain module, as one writes it without mixup."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
        head = (nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
        self.network = nn.Sequential(*convolutions, *head)
        self.train_accuracy = Accuracy(task="multiclass", num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        self.train_accuracy(logits, labels)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return cross_entropy(logits, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", cross_entropy(self.network(images), labels))

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.Adam(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        return [optimizer], [{"scheduler": rate, "interval": "step"}]


def load_data(replaced: float) -> tuple[DataLoader, DataLoader]:
    digits = load_digits()  # 1797 images of 8x8 pixels
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, val = torch.randperm(len(labels)).chunk(2)
    victims = train[: int(replaced * len(train))]
    labels[victims] = torch.randint(10, victims.shape)
    train_data, val_data = (TensorDataset(images[half], labels[half]) for half in (train, val))
    return DataLoader(train_data, batch_size=64, shuffle=True), DataLoader(val_data, batch_size=64)


def fit(replaced: float, alpha: float, seed: int, epochs: int) -> tuple[Trainer, MixupCallback]:
    seed_everything(seed, verbose=False)  # the same data and first weights for every alpha
    callback = MixupCallback(alpha=alpha)
    trainer = Trainer(
        callbacks=[callback],
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,  # only the last is reported
        num_sanity_val_steps=0,
        accelerator="cpu",  # so that every machine prints about the same
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DigitClassifier(), *load_data(replaced))
    return trainer, callback


def make_table(figures: Figures) -> Table:
    headings = [heading for heading, _ in LOGGED.values()]
    # Narrow enough for 80 columns, which is what a pipe gets.
    table = Table("labels", "alpha", *headings, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for labels, alpha in product(REPLACED, ALPHAS):
        cells = []
        for name, (_, form) in LOGGED.items():
            values = figures[labels, alpha, name]
            cells.append(f"{mean(values):{form}} ± {stdev(values):.3f}")
        table.add_row(labels, f"{alpha:g}", *cells, end_section=alpha == ALPHAS[-1])
    return table


def summarize(figures: Figures, labels: str, alpha: float) -> str:
    """Says what mixup made better and what worse, and in how many of the seeds."""
    changes = []
    for name, good in (("accuracy", 1), ("ece", -1), ("nll", -1)):
        pairs = zip(figures[labels, 0, name], figures[labels, alpha, name], strict=True)
        gains = [good * (mixed - plain) for plain, mixed in pairs]
        verdict = "better" if mean(gains) > 0 else "worse"
        agreeing = sum(gain * mean(gains) > 0 for gain in gains)
        changes.append(f"{LOGGED[name][0]} {verdict} ({agreeing}/{len(gains)} seeds)")
    gaps = [mean(figures[labels, each, "confidence_gap"]) for each in (0, alpha)]
    start, end = (f"{'over' if gap > 0 else 'under'}-confident ({gap:+.3f})" for gap in gaps)
    result = f"{changes[0]}, {changes[1]} and {changes[2]}"
    return f"With {labels} labels, alpha={alpha:g} makes {result}: from {start} to {end}."


def draw(bins: dict[tuple[str, float], list[ReliabilityBins]], path: Path) -> None:
    figure = Figure(figsize=(11.5, 10), layout="constrained")
    figure.suptitle("Handwritten digits held out, bins of all seeds pooled", fontsize="x-large")
    panels = figure.subfigures(len(REPLACED), len(ALPHAS)).flat
    for panel, ((labels, alpha), of_seeds) in zip(panels, bins.items(), strict=True):
        pooled = sum(of_seeds[1:], of_seeds[0])
        title = f"{labels} · alpha={alpha:g}" if alpha else f"{labels} · no mixup"
        reliability_diagram(pooled, title=title, figure=panel)
    legend = figure.axes[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(seeds: int = 3, epochs: int = 40, out: Path = Path("out")) -> None:
    console = Console(highlight=False)
    figures, bins = defaultdict(list), defaultdict(list)
    fits = list(product(REPLACED, ALPHAS, range(seeds)))
    for labels, alpha, seed in track(fits, f"Training {len(fits)} times", console=console):
        trainer, callback = fit(REPLACED[labels], alpha, seed, epochs)
        for name in LOGGED:
            figures[labels, alpha, name].append(trainer.callback_metrics[f"val_{name}"].item())
        bins[labels, alpha].append(callback.monitor.statistics["val"][0].bins())

    console.print(make_table(figures), NOTES)
    for labels, alpha in product(REPLACED, ALPHAS[1:]):
        console.print("-", summarize(figures, labels, alpha))
    draw(bins, out / "digits.png")
    print("\nReliability diagrams pool the seeds, and so have an ECE a bit below the table's.")
    print(f"They are in {out / 'digits.png'}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.")  # advice and deprecations
    torch.set_num_threads(1)  # a network this small gains nothing from more
    main()
