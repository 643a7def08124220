"""What the report says of four models of handwritten digits, and how to deploy a temperature.

Trains a network on partly wrong labels, which makes it over-confident, and one with mixup, which
makes it under-confident; scales that one by the temperature of its report; and last looks at 40
images alone, which are too few. The reports are drawn into ``out/``, or the folder that is given.
"""

import sys
from pathlib import Path

import torch
from digits import DigitClassifier, load_data
from lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from lightning_mixup import CalibrationMonitor, MixupCallback, TemperatureScaled


class Deployed(LightningModule):
    """A network that is not trained any more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        cross_entropy(self.network(images), labels)  # where the monitor finds logits and labels


def make_trainer(callback: MixupCallback | CalibrationMonitor, epochs: int | None) -> Trainer:
    return Trainer(
        callbacks=[callback],
        max_epochs=epochs,
        accelerator="cpu",  # so that every machine prints about the same
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train(alpha: float, replaced: float, epochs: int) -> tuple[nn.Module, CalibrationMonitor]:
    """Returns a trained network, and what its validation on one half of the images says."""
    seed_everything(0, verbose=False)
    callback, module = MixupCallback(alpha=alpha), DigitClassifier()
    train_loader, held_out = load_data(replaced)
    val_data = Subset(held_out.dataset, range(len(held_out.dataset) // 2))
    make_trainer(callback, epochs).fit(module, train_loader, DataLoader(val_data, batch_size=64))
    return module.network, callback.monitor


def test(network: nn.Module, images: int) -> CalibrationMonitor:
    """Returns what a test on as many images says, none of which was in validation."""
    seed_everything(0, verbose=False)  # the same halves again
    data = load_data(replaced=0)[1].dataset
    start = len(data) // 2
    loader = DataLoader(Subset(data, range(start, start + images)), batch_size=64)
    monitor = CalibrationMonitor()
    make_trainer(monitor, epochs=None).test(Deployed(network), loader, verbose=False)
    return monitor


def main(epochs: int = 40, out: Path = Path("out")) -> None:
    reports = {}
    _, reports["over-confident"] = train(alpha=0, replaced=0.4, epochs=epochs)
    network, reports["under-confident"] = train(alpha=1, replaced=0, epochs=epochs)
    scaled = TemperatureScaled(network, reports["under-confident"].temperature)
    reports["calibrated"] = test(scaled, images=449)
    reports["too-few"] = test(network, images=40)

    out.mkdir(parents=True, exist_ok=True)
    for name, monitor in reports.items():
        monitor.plot().savefig(out / f"{name}.png", dpi=100)
    print(f"Pictures are in {out}: {', '.join(reports)}.")


if __name__ == "__main__":
    torch.set_num_threads(1)  # a network this small gains nothing from more
    main(out=Path(*sys.argv[1:] or ["out"]))
