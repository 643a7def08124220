"""What mixing must come to: plain fits of a module on batches that are mixed by hand."""

import torch
from lightning import Callback


class Record(Callback):
    """Keeps what comes of each step, all of which see the same randomness.

    It comes before the mixup, so that it still sees the mix when the step is over.
    """

    def __init__(self, mixup=None):
        self.mixup = mixup
        self.mixes, self.losses, self.backwarded, self.gradients, self.logged = [], [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.manual_seed(5)

    def on_before_backward(self, trainer, pl_module, loss):
        self.backwarded.append(torch.tensor(loss.item()))

    def on_after_backward(self, trainer, pl_module):
        trained = [p for p in pl_module.parameters() if p.requires_grad and p.grad is not None]
        self.gradients.append([p.grad.clone() for p in trained])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.mixes.append(self.mixup and self.mixup.mix)
        if outputs:
            self.losses.append(outputs["loss"])
        metrics = trainer.callback_metrics
        self.logged.append({k: v.clone() for k, v in metrics.items() if "loss" in k})


class ByHand:
    """Mixes the entries of a batch one by one, with nothing of the package but its draw.

    Args:
        mix: The draw.
        swapped: Whose label is the partner's, of shape (B,).
    """

    def __init__(self, mix, swapped):
        self.partner, self.swapped = mix.partner, swapped
        self.weight = mix.weight.float().expand(len(mix.partner))

    def blend(self, x):
        weight = _column(self.weight, x)
        return weight * x + (1 - weight) * x[self.partner]

    def label(self, y):
        return torch.where(_column(self.swapped, y), y[self.partner], y)

    def soft_label(self, y):
        """Mixes labels that are floats, such as masks: a loss is given what lies between."""
        return self.blend(y)


class Dominant(ByHand):
    """Mixes as a train metric sees it: each label is that of the larger weight."""

    def __init__(self, mix):
        super().__init__(mix, (mix.weight < 0.5).expand(len(mix.partner)))

    def soft_label(self, y):
        return self.label(y)


def _column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


def shares_of(mix):
    """Returns whose labels are swapped, and the share of each such batch in the mixture.

    A loss that is a mean over samples is linear in what single swaps change.
    """
    rest, size = 1 - mix.weight, len(mix.partner)
    nobody, everybody = torch.zeros(1, size).bool(), torch.ones(1, size).bool()
    if rest.ndim == 0:
        return torch.cat([nobody, everybody]), [float(mix.weight), float(rest)]
    return torch.cat([nobody, torch.eye(size).bool()]), [float(1 - rest.sum()), *rest.tolist()]


def combined(shares, values):
    return sum(share * value.double() for share, value in zip(shares, values, strict=True))
