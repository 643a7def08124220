"""What `MixupCallback` says: what it mixes, once, and what is wrong with a step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_mixup.batch import Entries, looks_mixed, marks_unknown
from lightning_mixup.containers import get_entry, leaves_of, name_of_path
from lightning_mixup.errors import MixupRuntimeError, MixupValueError
from lightning_mixup.layers import Layer
from lightning_mixup.mixes import INPUT, Mix, Summed

__all__ = [
    "announce",
    "check_alone",
    "check_runs",
    "refuse_unused",
    "tell_of_first",
    "tell_of_reading",
]

_log = logging.getLogger(__name__)


def announce(batch: Any, entries: Entries, places: Sequence[str], recipe: str) -> None:
    """Says what is mixed, and warns of what may be wrong with that."""
    # Where hidden layers alone are mixed, inputs are at most looked at.
    mixed = entries.mixed if INPUT in places else entries.targets
    names = [name_of_path(path) for path in mixed]
    what = f"{_listed(names, 'and')} " if names else ""
    where = _listed(["the input" if place == INPUT else repr(place) for place in places], "or")
    drawn = ", drawn for each batch" if len(places) > 1 else ""
    rank_zero_info(f"MixupCallback: mixing {what}at {where}{drawn}, {recipe}")
    for path in entries.targets:
        if looks_mixed(get_entry(batch, path)):
            rank_zero_warn(
                f"The target {name_of_path(path)} holds shares of classes: it looks mixed or "
                "smoothed already. If a collate function or a transform mixes the batches, "
                "leave that or MixupCallback out; for smoothing, use the loss's own "
                "label_smoothing. If these are soft labels by nature, all is well."
            )
        if marks_unknown(get_entry(batch, path)):
            rank_zero_warn(
                f"The target {name_of_path(path)} holds -1, 0 and 1 alone. If -1 stands for a "
                "label that is unknown, select those that are known before the loss, as in "
                "`known = y >= 0; loss(logits[known], y[known])`, which is done for each label: "
                "floats are interpolated, and a loss that is masked afterwards would have -1 "
                "mixed into it. If these are quantities, all is well."
            )
    if any(path[-1:] == ("train_mask",) for path, _ in leaves_of(batch)):
        rank_zero_warn(
            "The batch has a train_mask, and partners are drawn from all of its rows: the labels "
            "of rows that are held out take part in training as those of partners. Hand over the "
            "training rows alone, or set the labels of the others to the loss's ignore_index."
        )


def tell_of_first(mix: Mix, targets: Sequence[Tensor]) -> None:
    """Warns of a first mix that does nothing or has no meaning, for which the device is asked."""
    if isinstance(mix.shift, Tensor) and not mix.shift.any():
        rank_zero_warn(
            "No sample of the first batch found a partner, so it is left as it is. Of regression "
            "targets, hardly two are the same: choose LabelKernel(bandwidth); of many classes, a "
            "larger batch has more samples of each."
        )
    numbers = [y for y in targets if y.is_floating_point()]
    if isinstance(mix, Summed) and any(((y < 0) | (y > 1)).any() for y in numbers):
        rank_zero_warn(
            "Overlay adds up targets and clamps them to 1, as for classes that are there, 1, or "
            "aren't, 0; and the first batch has others. If they are quantities, choose Mixup."
        )


def _listed(names: Sequence[str], conjunction: str) -> str:
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def check_alone(mixups: Sequence[Any]) -> None:
    """Refuses several callbacks that would mix the same steps.

    Raises:
        MixupValueError: Then.
    """
    if len(mixups) < 2:
        return
    given = _listed([repr(mixup) for mixup in mixups], "and")
    places = list(dict.fromkeys(place for mixup in mixups for place in mixup.places))
    several = f" To mix at either place, write layers={places!r}." if len(places) > 1 else ""
    raise MixupValueError(
        f"The Trainer has {len(mixups)} callbacks that mix, {given}. A step is mixed once, by one "
        f"of them. Keep one.{several}"
    )


def check_runs(module: LightningModule, layer: Layer, *, skips: bool) -> None:
    """Refuses a step in which labels were mixed and features were not, or were twice.

    Raises:
        MixupRuntimeError: Then.
    """
    if layer.calls == 1 or (skips and layer.calls == 0):
        return
    ran = f"ran {layer.calls} times" if layer.calls else "did not run"
    raise MixupRuntimeError(
        f"MixupCallback mixed the labels of this step for the layer {layer.name!r}, which {ran} "
        f"in {type(module).__name__}.training_step. It must run exactly once, so that labels and "
        "features are mixed alike. Name another layer, for example one around it; `MixupCallback."
        "suggest_layers(network, its_input)` lists those that run once in a forward pass. A step "
        "of several forward passes can be mixed at the input. If the layer was replaced during "
        "training, name the module that holds it."
    )


def refuse_unused(module: LightningModule, entries: Entries | None) -> None:
    """Refuses a step in which the mixed labels met no loss.

    Raises:
        MixupRuntimeError: Unless there are none.
    """
    if entries is None or not entries.targets:
        return
    names = " and ".join(map(name_of_path, entries.targets))
    raise MixupRuntimeError(
        f"MixupCallback mixed the target {names}, but no loss in {type(module).__name__}."
        "training_step used it: no operation with a gradient met the labels. If this module uses "
        "no labels, write targets=None; if they are another entry of the batch, targets=...; if "
        "the loss is fused or a custom autograd function, or reads labels as numbers (.item(), "
        ".numpy()), put it into a submodule and name that, loss='criterion'. Where only later "
        "steps use them, let the first do so, too, as in `loss + 0 * cross_entropy(logits, y)`."
    )


def tell_of_reading(operation: str, file: str, line: int) -> None:
    """Logs the line where labels were read as numbers, as a metric rightly may."""
    _log.warning(
        "%s:%s: training_step reads mixed labels as plain numbers here, by %s(), and is given the "
        "dominant label of each sample. That is right for a metric. Should a loss depend on these "
        "numbers, put it into a submodule and name that, MixupCallback(loss='criterion').",
        file,
        line,
        operation,
    )
