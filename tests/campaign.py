"""Training runs of all kinds, fit and unfit for mixing, and what each must come to.

A `Case` says what a user may write and hand over; `outcome` trains it with a real Trainer and
compares every step, its loss and gradient, with batches that are mixed by hand. Of the package it
takes the draw alone: what is mixed is known here from how the batch was made.
"""

import copy
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from campaign_batches import Form, numbers_of
from campaign_losses import TASKS
from lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_mixup import Mixup, MixupCallback, MixupError

# What a user writes.


@dataclass(frozen=True)
class Case:
    """A module, its loader of two batches and the callback."""

    task: str = "classes"
    forms: tuple[Form, Form] = (Form(), Form())
    alpha: Any = 1.0
    per_sample: Any = False
    prob: Any = 1.0
    layers: Any = "input"
    loss: Any = None
    named: tuple[tuple[str, ...] | None, tuple[str, ...] | None] = (None, None)
    """The parts that are named as inputs and as targets; None for "auto"."""
    by_function: bool = False
    targets_none: bool = False
    wrong: dict[str, Any] = field(default_factory=dict)
    """Arguments that must be refused."""
    unfit: dict[str, Any] = field(default_factory=dict)
    """Arguments that must be refused, if anything is mixed at the input."""
    seed: int = 0

    @property
    def mixes(self):
        return self.alpha > 0 and self.prob > 0

    @property
    def must_be_refused(self):
        return bool(self.wrong or (self.unfit and self.mixes and "input" in self.places))

    @property
    def places(self):
        names = {"[fh]*": ["first", "head"]}
        layers = [self.layers] if isinstance(self.layers, str) else self.layers
        return [place for name in layers for place in names.get(name, [name])]

    @property
    def is_ordinary(self):
        """Whether it must not be refused."""
        return (
            TASKS[self.task].ordinary
            and all(form.is_ordinary for form in self.forms)
            and not (self.wrong or self.unfit or self.targets_none)
            and not any(self.named)
            and not (self.loss and self.per_sample)
            and set(self.places) <= {"input", "first", "second", "head"}
            and not TASKS[self.task].is_weighted
        )

    def callback(self):
        """Makes the callback, by what is named in the first batch."""
        task, form = TASKS[self.task], self.forms[0]
        parts = form.parts(task, self.seed)
        arguments = {
            "recipe": Mixup(self.alpha, per_sample=self.per_sample),
            "prob": self.prob,
            "layers": self.layers,
            "loss": self.loss,
            "seed": self.seed,
        }
        for argument, named in zip(("inputs", "targets"), self.named, strict=True):
            if named is not None:
                arguments[argument] = self._selector(named, form, parts)
        if self.targets_none:
            arguments["targets"] = None
        return MixupCallback(**{**arguments, **self.unfit, **self.wrong})

    def _selector(self, named, form, parts):
        if self.by_function and self.forms[0].is_built_like(self.forms[1]):
            return lambda batch: [form.read(batch, parts).get(part) for part in named]
        paths = [form.path(part, parts) for part in named if part in parts]
        found = [p[0] if len(p) == 1 else ".".join(map(str, p)) for p in paths if p]
        return found[0] if len(found) == 1 else found

    def mixed(self, k, parts):
        """Returns which parts of a batch are mixed as inputs, and which as targets."""
        inputs, targets = (self._meant(k, parts, *each) for each in enumerate(self.named))
        return inputs, () if self.targets_none else targets

    def _meant(self, k, parts, role, named):
        """What is named is named by its place, where the next batch may have another part."""
        if named is None:
            form = self.forms[k]
            by_place = form.names == "odd" and form.container == "dict and label"
            meant = (("x", "x2", "w"), ("y",)) if by_place else (("x", "x2"), ("y", "w"))
            return [part for part in meant[role] if part in parts]
        first = self.forms[0].parts(TASKS[self.task], self.seed)
        paths = [path for part in named for path in self.forms[0].paths(part, first)]
        return [part for part in parts if {*self.forms[k].paths(part, parts)} & {*paths}]


class Criterion(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, logits, *labels):
        return self.task.loss(logits, *labels)


class Module(LightningModule):
    """Any user's: its layers run once, but `act` twice and `spare` never."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(case.seed)
        self.case, self.task = case, TASKS[case.task]
        parts = case.forms[0].parts(self.task, case.seed)
        size = sum(numbers_of(parts[part]).shape[1] for part in ("x", "x2") if part in parts)
        self.first, self.second = nn.Linear(size, 5), nn.Linear(5, 5)
        self.act, self.head = nn.Tanh(), nn.Linear(5, self.task.outputs)
        self.spare = nn.Linear(1, 1)
        self.criterion = Criterion(self.task)
        self.handed = []
        self.double()

    def training_step(self, batch, batch_idx):
        parts = self.case.forms[batch_idx].parts(self.task, self.case.seed + batch_idx)
        handed = self.case.forms[batch_idx].read(batch, parts)
        self.handed.append(handed)
        return self.loss_of(handed)

    def loss_of(self, parts, place=None, blend=None):
        views = [numbers_of(parts[part]) for part in ("x", "x2") if part in parts]
        features = torch.cat(views, 1)
        for name in ("first", "act", "second", "act", "head"):
            features = getattr(self, name)(features)
            if name == place:
                features = blend(features)
        labels = ("y", "w") if self.task.is_weighted else ("y",)
        return self.criterion(features, *(parts[label] for label in labels if label in parts))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# What must come of it.


class Loader:
    """Hands over its batches as they are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@dataclass
class Step:
    """What a step started from, and what came of it."""

    state: dict[str, Any]
    mix: Any = None
    loss: Any = None
    gradients: Any = None


class Record(Callback):
    """Comes before the mixup, so that it sees the mix when the step is over."""

    def __init__(self, mixup):
        self.mixup, self.steps, self.state = mixup, [], None

    def on_fit_start(self, trainer, pl_module):
        self.state = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(Step(self.state))

    def on_before_backward(self, trainer, pl_module, loss):
        self.steps[-1].loss = loss.detach().clone()

    def on_after_backward(self, trainer, pl_module):
        self.steps[-1].gradients = _gradients(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[-1].mix = self.mixup.mix
        self.state = copy.deepcopy(pl_module.state_dict())


def _gradients(module):
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


class Wrong(AssertionError):
    """A case that came to something that it must not come to."""


def outcome(case):
    """Trains a case, and returns in a word or an error's first words what came of it.

    Raises:
        Wrong: If that is neither its mixture nor a refusal that leaves everything as it was.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            callback = case.callback()
        except MixupError as error:
            _require(not case.is_ordinary, f"refused: {error}")
            return _words(error)
        return _trained(case, callback)


def _trained(case, callback):
    task, module, record = TASKS[case.task], Module(case), Record(callback)
    made = [form.parts(task, case.seed + k) for k, form in enumerate(case.forms)]
    batches = [form.batch(parts) for form, parts in zip(case.forms, made, strict=True)]
    initial = copy.deepcopy(module.state_dict())
    error = _fit(module, batches, [record, callback])
    _require(_is_as_found(module), "something is left in the module")
    again = [form.parts(task, case.seed + k) for k, form in enumerate(case.forms)]
    _require(_same(made, again), "the loader's batch was written to")
    if error is not None:
        _require(_same(module.state_dict(), record.state or initial), f"after a step: {error}")
        return _failed(case, error)
    _require(not case.must_be_refused, "accepted")
    steps = zip((0, 1), record.steps, made, module.handed, strict=True)
    reference = Module(case)
    drawn = [_compared(case, reference, *each) for each in steps]
    return "mixed" if any(drawn) else "plain"


def _fit(module, batches, callbacks):
    trainer = Trainer(barebones=True, accelerator="cpu", max_epochs=1, callbacks=callbacks)
    try:
        trainer.fit(module, Loader(batches))
    except Exception as error:
        return error
    return None


def _failed(case, error):
    if isinstance(error, MixupError):
        _require(not case.is_ordinary, f"refused: {error}")
        return _words(error)
    plain = _fit_plainly(case)
    _require(type(plain) is type(error), f"{error!r}, where plain training has {plain!r}")
    return f"as plain training: {type(error).__name__}"


def _fit_plainly(case):
    task = TASKS[case.task]
    made = [form.parts(task, case.seed + k) for k, form in enumerate(case.forms)]
    batches = [form.batch(parts) for form, parts in zip(case.forms, made, strict=True)]
    return _fit(Module(case), batches, [])


def _compared(case, module, k, step, parts, handed):
    """Compares a step with its mixture by hand, and returns whether it was mixed."""
    mix, roles = step.mix, case.mixed(k, parts)
    sizes = {_size(parts[part]) for part in _counted(case, roles) or ["x"]} if case.mixes else {0}
    if len(sizes) > 1:  # One row for all, which torch broadcasts, is mixed with itself.
        _require(min(sizes) < 2, "entries of several sizes are mixed")
        return mix is not None
    (size,) = sizes
    may_be = case.mixes and size > 1
    _require(mix is None or may_be, "mixed what is not to be mixed")
    _require(mix is not None or not may_be or case.prob < 1, "not mixed")
    module.load_state_dict(step.state)
    module.zero_grad()
    if mix is not None:
        _check_draw(case, mix, size)
    loss = by_hand(case, module, parts, roles, mix)
    loss.backward()
    found, expected = [step.loss, *step.gradients], [loss.detach(), *_gradients(module)]
    _require(len(found) == len(expected), "another set of gradients")
    # An infinite input mixes to infinity by hand, and to infinity or NaN in one pass of `lerp`.
    if mix and mix.place == "input" and case.forms[k].layout == "infinite":
        return True
    for ours, theirs in zip(found, expected, strict=True):
        _require(_close(ours, theirs, _tolerance(parts)), f"{ours} where {theirs} is expected")
    kept = {part: value for part, value in parts.items() if part not in (*roles[0], *roles[1])}
    _require(_same({p: handed[p] for p in kept if p in handed}, kept, skip=True), "extras changed")
    return mix is not None


def _counted(case, roles):
    """Returns the parts that count the samples: at hidden layers the labels alone."""
    inputs, targets = roles
    return [*inputs, *targets] if "input" in case.places else targets


def _check_draw(case, mix, size):
    weight = mix.weight
    _require(bool(((weight >= 0) & (weight <= 1)).all()), f"weight {weight}")
    _require(weight.shape == ((size,) if case.per_sample else ()), f"weight {weight}")
    _require(sorted(mix.partner.tolist()) == list(range(size)), f"partner {mix.partner}")
    _require(bool((mix.partner != torch.arange(size)).all()), f"partner {mix.partner}")
    _require(mix.place in case.places, f"place {mix.place}")
    _require(mix.place not in ("act", "spare"), "mixed at a layer that runs twice, or never")


def by_hand(case, module, parts, roles, mix):
    """Returns the loss of a mixed batch, worked out candidate by candidate, sample by sample."""
    if mix is None:
        return module.loss_of(parts)
    task, weight, partner = TASKS[case.task], mix.weight, mix.partner
    inputs, targets = roles
    at_input = inputs if mix.place == "input" else ()
    mixed = {**parts, **{part: _blend(parts[part], weight, partner) for part in at_input}}
    candidates = [dict(mixed), dict(mixed)]
    for part in targets:
        own, other = parts[part], parts[part][partner]
        if _is_number(case, parts, part, targets):
            own = other = _blend(own, weight, partner)
        candidates[0][part], candidates[1][part] = own, other
    shares = [weight, 1 - weight]
    place, blend = mix.place, lambda x: _blend(x, weight, partner)
    if not targets:
        return module.loss_of(mixed, place, blend)
    if not case.per_sample:
        losses = [module.loss_of(candidate, place, blend) for candidate in candidates]
        return sum(share * loss for share, loss in zip(shares, losses, strict=True))
    return _by_sample(module, task, candidates, shares, place, blend)


def _is_number(case, parts, part, targets):
    """Floats are mixed as numbers, unless they meet what has no number in between."""
    views = [view for view in ("x", "x2") if view in targets]
    discrete = any(not _is_quantity(parts[view]) for view in views)
    if part in ("y", "w"):
        discrete |= "y" in targets and not TASKS[case.task].numbers
    return _is_quantity(parts[part]) and not discrete


def _is_quantity(tensor):
    return tensor.is_floating_point() or tensor.is_complex()


def _by_sample(module, task, candidates, shares, place, blend):
    total, mass = 0, 0
    for candidate, share in zip(candidates, shares, strict=True):
        count = task.mass(candidate["y"]).double() if task.mass else torch.ones(len(share))
        losses = _losses(module, task, candidate, place, blend)
        total += sum(s * n * loss() for s, n, loss in zip(share, count, losses, strict=True) if n)
        mass = mass + (share * count).sum()
    return total if task.is_sum else total / mass


def _losses(module, task, parts, place, blend):
    """Returns what computes the loss of each sample, as the module has it of a batch of one."""
    kept = {}

    def keep(module, arguments):
        kept["logits"], *kept["labels"] = arguments

    handle = module.criterion.register_forward_pre_hook(keep)
    module.loss_of(parts, place, blend)
    handle.remove()
    logits, labels = kept["logits"], kept["labels"]
    return [
        lambda i=i: task.loss(logits[[i]], *[label[[i]] for label in labels])
        for i in range(len(logits))
    ]


def _blend(x, weight, partner):
    """In double precision, and rounded as late as can be."""
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64)
    share = weight.reshape(-1, *[1] * (x.ndim - 1)) if weight.ndim and x.ndim else weight
    blended = share * wide + (1 - share) * wide[partner]
    return torch.where(share == 1, wide, blended).to(x.dtype)


def _tolerance(parts):
    dtypes = {value.dtype for value in parts.values() if isinstance(value, torch.Tensor)}
    if torch.bfloat16 in dtypes:
        return 5e-2
    return 5e-3 if torch.float16 in dtypes else 1e-5


def _close(ours, theirs, tolerance):
    """What is not finite in one is not in the other; how it isn't may differ by rounding."""
    ours, theirs = map(_doubles, (ours, theirs))
    finite = theirs.isfinite()
    if not torch.equal(ours.isfinite(), finite) or not finite.any():
        return not finite.all() or not theirs.numel()
    ours, theirs = ours[finite], theirs[finite]
    return bool((ours - theirs).abs().max() <= tolerance * max(1, theirs.abs().max()))


def _doubles(x):
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.double()


def _size(x):
    return x.size(0) if x.ndim else 1


def _is_as_found(module):
    return "training_step" not in vars(module) and not any(
        "forward" in vars(part) for part in module.modules()
    )


def _same(found, expected, *, skip=False):
    """Returns whether two trees hold the same, bit for bit; draws of `table` are passed over."""
    if isinstance(expected, torch.Tensor):
        found = torch.stack(found) if isinstance(found, list) else found
        if not isinstance(found, torch.Tensor) or found.dtype != expected.dtype:
            return False
        if expected.layout != torch.strided or expected.is_nested or expected.is_quantized:
            return True
        return found.shape == expected.shape and _close(found, expected, 0)
    if isinstance(expected, np.ndarray):
        return np.array_equal(found, expected)
    if isinstance(expected, dict):
        keys = [key for key in expected if key != "table" and (not skip or key in found)]
        return all(_same(found[key], expected[key]) for key in keys)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)


def _require(condition, words):
    if not condition:
        raise Wrong(words)


def _words(error):
    """Returns a refusal's kind and its first words, without what differs by case."""
    varies = r"(?<!\w)'[^']*'|the batch:|batch(\[\d\])+|-?\d[\d.]*|\([\d, …]*\)"
    text = re.sub(varies, "…", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())[:90]}"
