"""Mixup of text: words can't be mixed, but their embeddings can.

Tells by the first sentence of a docstring which library it comes from: NumPy, SciPy, PyTorch or
scikit-learn, which are at hand wherever this runs. Trains a small network three times each with
no mixup, and mixed at the embedding of the words or at what is read from them. Prints what it
makes of the sentences that it never saw.
"""

import importlib
import inspect
import logging
import re
import sys
import warnings
from statistics import mean, stdev

import torch
from lightning import LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_mixup import MixupCallback

LIBRARIES = ("numpy", "scipy.stats", "torch.nn", "sklearn")
WORDS, LENGTH = 4096, 24  # the size of the vocabulary, and of a sentence
CALLBACKS = {
    "no mixup": {"alpha": 0},
    "the embedding or the reader": {"alpha": 1.0, "layers": ["embedding", "reader"]},
}


class LibraryClassifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 64, padding_idx=0)
        self.reader = nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, len(LIBRARIES))

    def forward(self, words: Tensor) -> Tensor:
        _, state = self.reader(self.embedding(words))
        return self.head(state[-1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        words, labels = batch
        return cross_entropy(self(words), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        words, labels = batch
        self.log("val_loss", cross_entropy(self(words), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def collect(library: str) -> list[str]:
    """Returns the first sentences of the docstrings of a library."""
    importlib.import_module(library)
    modules = [m for name, m in list(sys.modules.items()) if f"{name}.".startswith(f"{library}.")]
    documented = [value for module in modules for value in vars(module).values()]
    texts = {
        inspect.getdoc(value)
        for value in documented
        if callable(value) and str(getattr(value, "__module__", "")).startswith(library)
    }
    return sorted({text.split("\n\n")[0] for text in texts if text})


def encode(sentence: str) -> list[int]:
    """Returns numbers of words, which don't depend on the run as those of `hash` do."""
    words = re.findall(r"[a-z]+", sentence.lower())[:LENGTH]
    numbers = [1 + int.from_bytes(word.encode(), "big") % (WORDS - 1) for word in words]
    return numbers + [0] * (LENGTH - len(numbers))


def load_data() -> TensorDataset:
    sentences = [(text, i) for i, name in enumerate(LIBRARIES) for text in collect(name)]
    words = torch.tensor([encode(text) for text, _ in sentences])
    return TensorDataset(words, torch.tensor([label for _, label in sentences]))


def fit(data: TensorDataset, seed: int, epochs: int, **settings: object) -> dict[str, float]:
    seed_everything(seed, verbose=False)
    train, val = random_split(data, [0.5, 0.5])
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
    loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=500)
    trainer.fit(LibraryClassifier(), *loaders)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def main(seeds: int = 3, epochs: int = 10) -> None:
    data, console = load_data(), Console(highlight=False)
    console.print(f"{len(data)} docstrings of {', '.join(LIBRARIES)}")
    table = Table("mixed at", "accuracy", "ECE", "NLL")
    for name, settings in CALLBACKS.items():
        runs = [fit(data, seed, epochs, **settings) for seed in range(seeds)]
        columns = [[run[key] for run in runs] for key in ("val_accuracy", "val_ece", "val_nll")]
        table.add_row(name, *(f"{mean(values):.3f} ± {stdev(values):.3f}" for values in columns))
    console.print(table)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")  # advice and deprecations, and what libraries import
    torch.set_num_threads(1)  # a network this small gains nothing from more
    main()
