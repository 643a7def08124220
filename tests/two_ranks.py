"""What test_ranks.py runs as two ranks: ``python two_ranks.py launched|spawned folder``.

Each case is a fit. Every rank writes what it saw to ``folder/case-rank.pt``; nothing is worked
out here. Its modules are in double precision, so that a comparison leaves no room.
"""

import os
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed import fsdp
from torch.distributed.tensor import parallel
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy
from zoo import CLASSES, FEATURES

from lightning_mixup import Mixup, MixupCallback, OffAtEnd

HIDDEN, BATCH, SEED = 8, 4, 5
PLACES = ("input", "net.layer1", "net.layer2")


class Deep(LightningModule):
    """Logs its loss and its accuracy over all ranks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        layers = {
            "layer1": nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh()),
            "layer2": nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh()),
            "head": nn.Linear(HIDDEN, CLASSES),
        }
        self.net = nn.Sequential(OrderedDict(layers)).double()
        self.acc = Accuracy(task="multiclass", num_classes=CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.acc(logits, y)
        self.log("acc", self.acc, on_step=False, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


class WithUnusedBranch(Deep):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2).double()


class Sharded(Deep):
    """Each rank holds a part of every weight, and trains on data of its own."""

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        for block in (self.net.layer1, self.net.layer2, self.net):
            fsdp.fully_shard(block, mesh=mesh)


class SplitUp(Deep):
    """Each rank computes a part of every layer: both train on the same data."""

    def configure_model(self):
        plan = {"layer1.0": parallel.ColwiseParallel(), "layer2.0": parallel.RowwiseParallel()}
        parallel.parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


def samples(size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def loader():
    """Batches of 4, 4 and 3 samples for each of two ranks."""
    return DataLoader(TensorDataset(*samples(22)), batch_size=BATCH)


@dataclass
class Case:
    settings: dict[str, Any] = field(default_factory=dict)
    strategy: Any = "ddp"
    module: Any = Deep
    accumulate: int = 1
    compiled: bool = False


PER_SAMPLE = Mixup(1.0, per_sample=True)
ANYWHERE = {"recipe": PER_SAMPLE, "layers": PLACES}
TENSOR_PARALLEL = "tensor parallel"
LAUNCHED = {
    "input": Case({"alpha": 1.0}),
    "input, per sample": Case({"recipe": PER_SAMPLE}),
    "hidden": Case({"alpha": 1.0, "layers": "net.layer1"}),
    "anywhere, per sample": Case(ANYWHERE),
    "half of the batches": Case({**ANYWHERE, "prob": 0.5}),
    "accumulated": Case({**ANYWHERE, "prob": 0.5}, accumulate=2),
    "scheduled": Case({**ANYWHERE, "prob": OffAtEnd(steps=2)}, accumulate=2),
    "compiled": Case(ANYWHERE, compiled=True),
    "static graph": Case(ANYWHERE, lambda: DDPStrategy(static_graph=True)),
    "unused branch": Case(ANYWHERE, "ddp_find_unused_parameters_true", WithUnusedBranch),
    "fully sharded": Case(ANYWHERE, lambda: ModelParallelStrategy(2, 1), Sharded),
    TENSOR_PARALLEL: Case(ANYWHERE, lambda: ModelParallelStrategy(1, 2), SplitUp),
}
# Each starts two processes of its own.
SPAWNED = {name: Case(LAUNCHED[name].settings, "ddp_spawn") for name in ("half of the batches",)}


class Record(Callback):
    """Writes down each step; it comes before the mixup, which forgets its mix when a step ends."""

    def __init__(self, mixup, path):
        self.mixup, self.path, self.steps, self.gradients = mixup, path, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append({"batch": batch})

    def on_before_backward(self, trainer, pl_module, loss):
        self.steps[-1]["loss"] = loss.item()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append([whole(p.grad) for p in pl_module.net.parameters()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        mix = self.mixup.mix
        drawn = mix and {key: getattr(mix, key) for key in ("weight", "partner", "place")}
        self.steps[-1].update(mix=drawn, logged=numbers(trainer))

    def on_fit_end(self, trainer, pl_module):
        seen = {
            "steps": self.steps,
            "gradients": self.gradients,
            "weights": [whole(p) for p in pl_module.net.parameters()],
            "logged": numbers(trainer),
        }
        torch.save(seen, f"{self.path}-{trainer.global_rank}.pt")


def whole(tensor):
    """Returns a copy of a tensor that may be in parts on several ranks."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def numbers(trainer):
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def fit(case, path):
    module = case.module()
    mixup = MixupCallback(**case.settings)
    # Each rank is seeded otherwise, as some users do: that of rank zero counts.
    torch.manual_seed(SEED + int(os.environ.get("RANK", "0")))
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=case.strategy() if callable(case.strategy) else case.strategy,
        max_epochs=2,
        accumulate_grad_batches=case.accumulate,
        callbacks=[Record(mixup, path), mixup],
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    trainer.fit(torch.compile(module, backend="eager") if case.compiled else module, loader())


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = {"launched": LAUNCHED, "spawned": SPAWNED}[sys.argv[1]]
    for name, case in cases.items():
        fit(case, Path(sys.argv[2], name))
