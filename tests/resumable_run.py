"""What test_resume.py runs: fits that are killed and resumed, in one process and in two.

``python resumable_run.py folder`` runs all of `CASES`. It imports everything once and forks a
process for each life of a run (two of them under gloo), which dies by SIGKILL at its step. A run
that comes to its end leaves its weights and its optimizer's state in the folder.

RESUME_CASES=100 runs that many cases of each kind, all different.
"""

import json
import math
import os
import random
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, Sampler, TensorDataset

from lightning_mixup import Mixup, MixupCallback

EPOCHS, BATCHES, BATCH = 3, 7, 8  # batches in an epoch, rows in a batch
HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_save_checkpoint",
)


class Net(LightningModule):
    """Has what a checkpoint must bring back: moments, a schedule, and statistics of BatchNorm."""

    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        first = nn.Linear(6, 16), norm(16), nn.Dropout(0.1), nn.Tanh()
        self.body = nn.Sequential(*first, nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.head(self.body(x).tanh()), y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, EPOCHS * BATCHES)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class ResumingSampler(Sampler):
    """Shuffles by the seed and the epoch, and begins behind the steps that were done."""

    def __init__(self, trainer, size, batch_size, seed=0):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.world, self.rank = trainer.world_size, trainer.global_rank
        self.done = trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def __len__(self):
        return self.size // self.world

    def __iter__(self):
        batches = math.ceil(len(self) / self.batch_size)
        epoch, batch = divmod(self.done, batches)
        self.done += batches - batch
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        own = order[self.rank :: self.world][: len(self)]
        return iter(own[batch * self.batch_size :])


class SeededSteps(Callback):
    """Seeds each step by its number, so that dropout and the like draw alike in a resumed run."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        steps = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        torch.manual_seed(1_000_003 * trainer.global_rank + steps)


class WithPositions(Net):
    def train_dataloader(self):
        data = make_data(self.trainer.world_size)
        sampler = ResumingSampler(self.trainer, len(data), BATCH)
        return DataLoader(data, batch_size=BATCH, sampler=sampler)


class WithStates(Net):
    """torchdata's loader, whose state Lightning keeps."""

    def train_dataloader(self):
        from torchdata.stateful_dataloader import StatefulDataLoader

        return StatefulDataLoader(make_data(1), batch_size=BATCH, shuffle=True)


class WithEpochs(Net):
    """The sampler that Lightning tells of the epoch, and that always begins at its start."""

    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        data = make_data(world)
        sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=3)
        return DataLoader(data, batch_size=BATCH, sampler=sampler)


ORDERS = {"positions": WithPositions, "states": WithStates, "epochs": WithEpochs}


class Kill(Callback):
    """Ends its process as the system does: without a word."""

    def __init__(self, step, hook):
        self.step = step
        setattr(self, hook, self.kill)

    def kill(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_data(world):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * BATCH * world, 6, generator=generator)
    return TensorDataset(x, x[:, :5].argmax(dim=1))


def make_mixup(**arguments):
    settings = {"recipe": Mixup(1.0, per_sample=True), "prob": 0.7, "calibration": False}
    return MixupCallback(layers=["input", "body.0", "body"], **{**settings, **arguments})


def make_trainer(folder, callbacks, **options):
    return Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **{"devices": 1, "max_epochs": EPOCHS, **options},
    )


def state_of(trainer):
    """Returns all that two equal runs must have in common at their end."""
    return {
        "model": trainer.lightning_module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "steps": trainer.global_step,
    }


# The cases.

KINDS = {
    "inside an epoch": {"order": "positions"},
    # Killed once: behind a checkpoint that it resumes, Lightning writes another in the middle of
    # the gradients that are accumulated next, and those are lost.
    "gradients accumulated": {"order": "positions", "accumulate": 2, "deaths": 1},
    "a stateful loader": {"order": "states"},
    "the end of an epoch": {"order": "epochs", "every": None},
    "inside an epoch, two processes": {"order": "positions", "world": 2},
    "gradients accumulated, two processes": {
        "order": "positions",
        "accumulate": 2,
        "deaths": 1,
        "world": 2,
    },
    "the end of an epoch, two processes": {"order": "epochs", "every": None, "world": 2},
}


def draw_case(name, *, order, every=3, accumulate=1, world=1, deaths=3):
    """Returns a run and who is to be killed in it: behind which step, at which hook."""
    numbers = random.Random(name)
    # Behind the first checkpoint, up to the last step.
    first = (BATCHES if every is None else every * accumulate) + 1
    steps = sorted(numbers.sample(range(first, EPOCHS * BATCHES), deaths))
    kills = [(step, numbers.choice(HOOKS), numbers.randrange(world)) for step in steps]
    run = {"order": order, "every": every, "accumulate": accumulate, "world": world}
    return {**run, "kills": kills}


CASES = {
    name: draw_case(name, **kind)
    for number in range(int(os.environ.get("RESUME_CASES", "1")))
    for kind_name, kind in KINDS.items()
    for name in [f"{kind_name}, {number}" if number else kind_name]
}


def name_of_whole(case):
    """Returns the name of the run that nothing interrupts."""
    return "whole-{order}-{accumulate}-{world}".format(**case)


# Lives and deaths.


def live(case, folder, result, *, seed, kill):
    """Runs or resumes a fit up to its end or its step."""
    warnings.simplefilter("ignore")
    torch.manual_seed(seed)  # Other processes, other seeds: only the checkpoint's can be right.
    saving = ModelCheckpoint(
        folder, every_n_train_steps=case["every"], save_last=True, enable_version_counter=False
    )
    callbacks = [make_mixup(), SeededSteps(), saving, *([Kill(*kill)] if kill else [])]
    trainer = make_trainer(
        folder,
        callbacks,
        devices=case["world"],
        strategy="ddp" if case["world"] > 1 else "auto",
        accumulate_grad_batches=case["accumulate"],
    )
    trainer.fit(ORDERS[case["order"]](), ckpt_path="last" if any(folder.iterdir()) else None)
    torch.save(state_of(trainer), f"{result}-{trainer.global_rank}.pt")


def fork(rank, world, port, life):
    """Starts one process as torchrun does, and returns its id."""
    child = os.fork()
    if child:
        return child
    settings = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    server = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    if world > 1:
        together = {**settings, **server, "GROUP_RANK": 0}
        os.environ.update({name: str(value) for name, value in together.items()})
    try:
        life(rank)
    except BaseException:  # whatever it is, this process must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run_life(case, folder, result, *, number, kill):
    """Returns how the first process to die has died; the others die with it, as in torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def life(rank):
        own = kill[:2] if kill and kill[2] == rank else None
        live(case, folder, result, seed=10 * number + rank, kill=own)

    alive = {fork(rank, case["world"], port, life) for rank in range(case["world"])}
    codes = []
    while alive:
        child, status = os.wait()
        alive.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[0]:
            for other in alive:
                os.kill(other, signal.SIGKILL)
    return codes[0]


def run_case(case, folder, result):
    """Returns how each life of a run has ended."""
    folder.mkdir()
    return [
        run_life(case, folder, result, number=number, kill=kill)
        for number, kill in enumerate([*case["kills"], None])
    ]


def main(folder):
    torch.set_num_threads(1)
    wholes = {name_of_whole(case): {**case, "kills": []} for case in CASES.values()}
    lives = {
        name: run_case(case, folder / f"of {name}", folder / name)
        for name, case in {**wholes, **CASES}.items()
    }
    (folder / "lives.json").write_text(json.dumps(lives), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
