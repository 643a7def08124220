"""What others do with a batch: their own packages where installed, else their formulas, by source.

Packages draw weights and mix labels in the same call, which can't be had apart.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA, CLASSES = 0.2, 10
PACKAGES = ("timm", "torchvision", "kornia")

Mixers = dict[str, Callable[[], Any]]


def packaged(x: Tensor, y: Tensor) -> Mixers:
    """Returns calls that mix a batch, by the package."""
    made: Mixers = {}
    if find_spec("timm"):
        from timm.data.mixup import Mixup

        own = x.clone()  # it mixes in place
        by_timm = Mixup(mixup_alpha=ALPHA, label_smoothing=0, num_classes=CLASSES)
        made["timm `Mixup`, in place, with labels"] = lambda: by_timm(own, y)
    if find_spec("torchvision"):
        from torchvision.transforms.v2 import MixUp

        by_torchvision = MixUp(alpha=ALPHA, num_classes=CLASSES)
        made["torchvision `v2.MixUp`, with labels"] = lambda: by_torchvision(x, y)
    if find_spec("kornia"):
        from kornia.augmentation import RandomMixUpV2

        by_kornia = RandomMixUpV2(p=1.0, data_keys=["input", "class"])
        made["kornia `RandomMixUpV2`, with labels"] = lambda: by_kornia(x, y)
    return made


def packaged_cutmix(x: Tensor, y: Tensor) -> Mixers:
    """Returns calls that paste boxes, by the package."""
    made: Mixers = {}
    if find_spec("timm"):
        from timm.data.mixup import Mixup

        own = x.clone()  # it mixes in place
        by_timm = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0, num_classes=CLASSES)
        made["timm `Mixup(cutmix_alpha=1.0)`, in place"] = lambda: by_timm(own, y)
    if find_spec("torchvision"):
        from torchvision.transforms.v2 import CutMix

        by_torchvision = CutMix(alpha=1.0, num_classes=CLASSES)
        made["torchvision `v2.CutMix`"] = lambda: by_torchvision(x, y)
    if find_spec("kornia"):
        from kornia.augmentation import RandomCutMixV2

        by_kornia = RandomCutMixV2(p=1.0, data_keys=["input", "class"])
        made["kornia `RandomCutMixV2`"] = lambda: by_kornia(x, y)
    return made


def of_the_paper(x: Tensor, weight: float) -> Tensor:
    """`mixup_data` of github.com/facebookresearch/mixup-cifar10, train.py."""
    index = torch.randperm(len(x), device=x.device)
    return weight * x + (1 - weight) * x[index, :]


def of_manifold_mixup(x: Tensor, weight: float) -> Tensor:
    """`mixup_process` of github.com/vikasverma1077/manifold_mixup, supervised/models/utils.py."""
    indices = np.random.permutation(len(x))  # noqa: NPY002  as it stands there
    return x * weight + x[indices] * (1 - weight)


def index_and_lerp(x: Tensor, weight: float) -> Tensor:
    """Composer's `mixup_batch`, composer/algorithms/mixup/mixup.py, with its sum as a lerp."""
    return torch.lerp(x[torch.randperm(len(x), device=x.device)], x, weight)


def roll_and_lerp(x: Tensor, weight: float) -> Tensor:
    """The usual short form, with the partners of torchvision/transforms/v2/_augment.py."""
    return torch.lerp(x.roll(1, 0), x, weight)


def two_losses(logits: Tensor, y: Tensor, partner: Tensor, weight: float) -> Tensor:
    """`mixup_criterion` of github.com/facebookresearch/mixup-cifar10, train.py."""
    first, second = F.cross_entropy(logits, y), F.cross_entropy(logits, y[partner])
    return weight * first + (1 - weight) * second


def soft_targets(logits: Tensor, y: Tensor, partner: Tensor, weight: float) -> Tensor:
    """One-hot labels, mixed as torchvision/transforms/v2/_augment.py mixes them."""
    labels = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    return F.cross_entropy(logits, labels.mul(weight).add_(labels[partner].mul(1 - weight)))


def two_gathers(logits: Tensor, y: Tensor, partner: Tensor, weight: float) -> Tensor:
    """The least there is to do, as one writes it by hand: one `log_softmax` for both labels."""
    log_probs = F.log_softmax(logits, 1)
    first, second = F.nll_loss(log_probs, y), F.nll_loss(log_probs, y[partner])
    return weight * first + (1 - weight) * second


def soft_targets_of_timm(logits: Tensor, y: Tensor, weight: float) -> Tensor:
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    labels = mixup_target(y, logits.shape[1], lam=weight, smoothing=0.0)
    return SoftTargetCrossEntropy()(logits, labels)
