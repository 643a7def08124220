"""What needs a GPU: that nothing waits, bandwidth, a ResNet-50, the monitor; else blank rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from measure import Plan, Row, Spread, interleave, over, timed, wait_for
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_mixup import CalibrationStatistics, Mix, Mixup, merge

WEIGHT, SHIFT = 0.7, 5
INPUT, HIDDEN = (256, 3, 224, 224), (64, 256, 32, 32)
WAITS = "GPU: times that a step waits for the device"
BANDWIDTH = "GPU: time of a byte read or written, over a device copy's (1.111: 90 % of it)"
RESNET = "GPU: ResNet-50, 224², bf16, channels last: step with over without"
MONITOR = "GPU: monitor, 256×1000: its update, over that of torchmetrics' ECE and accuracy"


def rows(plan: Plan) -> list[Row]:
    if not torch.cuda.is_available():
        return [
            Row(WAITS, "ours", None, 0),
            Row(BANDWIDTH, "ours, input", None, 1 / 0.9),
            Row(BANDWIDTH, "ours, hidden layer, forward and backward", None, 1 / 0.9),
            Row(RESNET, "ours, eager", None, 1.005),
            Row(RESNET, "ours, compiled", None, 1.005),
            Row(MONITOR, "ours", None),
        ]
    return rows_on("cuda", plan)


def rows_on(device: str, plan: Plan) -> list[Row]:
    return [*waits(device), *bandwidth(device, plan), *resnet(device, plan), *update(device, plan)]


def mixed_step(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, mix: Mix | None) -> None:
    loss = F.cross_entropy(net(x if mix is None else mix.blend(x)), mix.label(y) if mix else y)
    merge(loss).backward()


def waits(device: str) -> list[Row]:
    """Counts what torch itself notices."""
    x, y = torch.randn(64, 32, device=device), torch.arange(64, device=device) % 10
    net = torch.nn.Linear(32, 10, device=device)
    mixed_step(net, x, y, Mix(WEIGHT, SHIFT, len(x), device))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_of_waiting(device, "warn")
        mixed_step(net, x, y, Mix(WEIGHT, SHIFT, len(x), device))
        _warn_of_waiting(device, "default")
    count = float(sum("synchroniz" in str(each.message) for each in caught))
    return [Row(WAITS, "ours", Spread(count, count, count), 0)]


def _warn_of_waiting(device: str, mode: str) -> None:
    if device == "cuda":
        torch.cuda.set_sync_debug_mode(mode)


def bandwidth(device: str, plan: Plan) -> list[Row]:
    """Counts bytes as they are asked for: a copy reads and writes one, mixing reads two."""
    x = torch.randn(plan.pick(INPUT, (6, 3, 4, 4)), device=device)
    hidden = torch.randn(plan.pick(HIDDEN, (6, 3, 4, 4)), device=device, requires_grad=True)
    out, grad, calls = torch.empty_like(x), torch.randn_like(hidden), plan.pick(20, 1)
    other = torch.empty_like(grad)

    def there_and_back() -> None:
        mixed = Mix(WEIGHT, SHIFT, len(hidden), device).blend(hidden)
        torch.autograd.grad(mixed, hidden, grad)

    arms = {
        "copy": timed(lambda: out.copy_(x), calls, device),
        "copy of hidden": timed(lambda: other.copy_(grad), calls, device),
        "input": timed(lambda: Mix(WEIGHT, SHIFT, len(x), device).blend(x), calls, device),
        "hidden": timed(there_and_back, calls, device),
    }
    times = interleave(arms, plan.rounds)
    ours = [2 / 3 * ratio for ratio in over(times, "copy")["input"]]
    both_ways = [2 / 6 * ratio for ratio in over(times, "copy of hidden")["hidden"]]
    return [
        Row(BANDWIDTH, "ours, input", Spread(*ours), 1 / 0.9),
        Row(BANDWIDTH, "ours, hidden layer, forward and backward", Spread(*both_ways), 1 / 0.9),
    ]


def resnet(device: str, plan: Plan) -> list[Row]:
    """Steps of a training loop with mixing by the recipe, and without."""
    if not find_spec("timm"):
        return [Row(RESNET, f"ours, {how}", None, 1.005) for how in ("eager", "compiled")]
    from timm.models import create_model

    size, pixels, calls = plan.pick((256, 224, 10), (2, 32, 1))
    x = torch.randn(size, 3, pixels, pixels, device=device).to(memory_format=torch.channels_last)
    y = torch.arange(size, device=device)
    net: Any = create_model(plan.pick("resnet50", "test_resnet")).to(device)
    net = net.to(memory_format=torch.channels_last)
    found = []
    for how in plan.pick(("eager", "compiled"), ("eager",)):
        run = torch.compile(net) if how == "compiled" else net
        times = interleave(
            {
                name: timed(_step(run, x, y, recipe, device), calls, device)
                for name, recipe in (("none", None), ("ours", Mixup(0.2)))
            },
            plan.rounds,
        )
        found.append(Row(RESNET, f"ours, {how}", over(times, "none")["ours"], 1.005))
    return found


def _step(net: Any, x: Tensor, y: Tensor, recipe: Mixup | None, device: str) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step() -> None:
        inputs, labels = (x, y) if recipe is None else recipe(x, y)
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(net(inputs), labels)
        merge(loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def update(device: str, plan: Plan) -> list[Row]:
    size, classes = plan.pick((256, 1000), (8, 5))
    logits = torch.randn(size, classes, device=device)
    target = torch.arange(size, device=device) % classes
    error = MulticlassCalibrationError(classes, n_bins=15, validate_args=False)
    accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
    theirs = MetricCollection([error, accuracy]).to(device)
    ours = CalibrationStatistics().to(device)
    calls = plan.pick(50, 1)
    arms = {
        "ours": timed(lambda: ours.update(logits, target), calls, device),
        "theirs": timed(lambda: theirs.update(logits.softmax(1), target), calls, device),
    }
    wait_for(device)
    return [Row(MONITOR, "ours", over(interleave(arms, plan.rounds), "theirs")["ours"])]
