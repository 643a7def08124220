"""Pictures of a mixed batch: samples, whom they are mixed with, what comes of it, and the labels.

Pure functions of tensors and a `Mix`; `plot.py` knows matplotlib. B is the batch, ``*`` any
further dimensions. A strip is what is drawn of one entry of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_mixup.errors import MixupValueError
from lightning_mixup.mixes import INPUT, Joined, Mix, Summed
from lightning_mixup.partners import partner_indices, take_partners
from lightning_mixup.plot import draw_title, new_figure, wrap
from lightning_mixup.recipes import Recipe
from lightning_mixup.targets import Kind, MixedTarget, merge
from lightning_mixup.weights import Weight

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_shown", "mix_plot"]

_Array: TypeAlias = "npt.NDArray[Any]"

# Okabe and Ito's colors from dark to light, so that classes differ in a gray print, too.
_COLORS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442"]
_IGNORED = "#FFFFFF"  # labels below 0 and 255
_INK = ("#000000", "#D55E00", "#56B4E9")  # of lines, likewise from dark to light
_TEXT: dict[str, Any] = {"fontsize": 8, "loc": "left", "parse_math": False, "linespacing": 1.35}
_TIMES = "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"
_BARS = 32  # rows with more numbers are drawn as lines
_CHANNELS = 16  # and three-dimensional inputs with more channels as pictures


@dataclass(frozen=True)
class _Strip:
    """One entry of the batch, as it is drawn: the samples, each of their partners, and mixed."""

    kind: str  # "image" in color, "picture", "lines" or "bars"
    panels: list[Tensor]  # of shape (B, H, W, 3 or 4), (B, H, W), (B, C, T) or (B, N)
    note: str = ""

    @property
    def is_flat(self) -> bool:
        """Whether panels have a vertical axis with numbers."""
        return self.kind in ("lines", "bars")


def mix_plot(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    mix: Mix | None,
    *,
    count: int = 4,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    r"""Draws a mixed batch: in each row a sample, its partners, and what they are mixed to.

    What an input is goes by its shape:

    - (B, 1, H, W) and (B, H, W) are pictures, such as spectrograms: light is high, and the first
      row is at the top, as whether it is the lowest frequency can't be known;
    - (B, 3, H, W) and (B, 4, H, W) are images in color; another number of channels is averaged;
    - (B, C, T, H, W) are videos, of which the frame in the middle is drawn;
    - (B, C, T) is a series where C is at most 16 and half of T, and else a picture; of more than
      three channels the first three are drawn;
    - (B, N) are bars, and a series where N is above 32.

    All panels of a row have one scale. Colors that go beyond [0, 1], as those of normalised
    images do, are stretched to it. Of complex numbers the magnitude is drawn. Maps of labels, as
    in segmentation, are drawn beside the input, a class in a color, and mixed ones in mixtures.

    Args:
        inputs: Of shape (B, \*), on any device. Never modified.
        targets: Of shape (B, \*), likewise; none for unlabelled ones.
        mix: What a recipe has drawn for them; of RegMixup the mixed half is drawn.
        count: How many samples are drawn, the first ones.
        class_names: What classes are called; by default they are numbered.
        title: A name for the picture, above. Long ones are wrapped.

    Returns:
        A new figure; ``figure.savefig("mix.png")`` writes it.

    Raises:
        MixupImportError: If matplotlib is not installed.
        MixupValueError: If count is below 1, there is no mix, or a shape can't be drawn.

    Example:
        >>> from lightning_mixup import CutMix
        >>> x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
        >>> mix = CutMix(1.0).draw(np.random.default_rng(0), len(x), inputs=[x])
        >>> figure = mix_plot([x], [y], mix, count=2, class_names="abcdefgh")
        >>> [axes.get_title(loc="left").partition("\n")[0] for axes in figure.axes[:3]]
        ['sample 0', 'with 0.06 of sample 5', 'mixed, 0.94 of itself']
    """
    if count < 1:
        raise MixupValueError(f"count={count!r} leaves no sample to draw. Give 1 or more.")
    if mix is None:
        raise MixupValueError(
            "There is no mix to draw: a batch of one sample has nobody to be mixed with. Give a "
            "batch of two or more, as a loader with batch_size=8 returns it."
        )
    mix = mix.mix if isinstance(mix, Joined) else mix
    maps = [y for y in targets if _is_map(y, inputs)]
    labels = [y for y in targets if not any(y is other for other in maps)]
    shown = min(count, mix.batch_size)
    strips = [_strip(x, mix.blend(x), mix) for x in inputs]
    strips += [_strip_of_map(y, mix) for y in maps]
    return _draw(strips, _captions(labels, mix, shown, class_names), title)


def check_shown(recipe: Recipe | None, prob: float, places: Sequence[str]) -> Recipe:
    """Returns the recipe, if it is one whose work can be seen.

    Raises:
        MixupValueError: If nothing is mixed, or not at the input.
    """
    if INPUT not in places:
        raise MixupValueError(
            f"show() draws mixed inputs, and layers={list(places)!r} mixes hidden features, which "
            "can't be seen. Add 'input' to layers, or look at `callback.mix` in a step."
        )
    if recipe is None or prob == 0 or not recipe.mixes:
        given = "a range of epochs without a recipe" if recipe is None else f"{recipe!r}"
        raise MixupValueError(
            f"show() has nothing to draw: {given}, with prob={prob:g}, mixes nothing. Choose an "
            "alpha and a probability above 0, or another epoch."
        )
    return recipe


# What is drawn.


def _strip(x: Tensor, mixed: Tensor, mix: Mix) -> _Strip:
    partners = [take_partners(x, shift) for _, shift in mix.shares]
    drawable = [_drawable(_plain(each)) for each in (x, *partners, mixed)]
    return _Strip(drawable[0].kind, [each.panels[0] for each in drawable], drawable[0].note)


def _plain(x: Tensor) -> Tensor:
    """Returns real numbers on the CPU, which matplotlib can draw."""
    x = merge(x).detach()
    x = x.abs() if x.is_complex() else x
    return x.to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)


def _drawable(x: Tensor) -> _Strip:
    """Returns what is drawn of an input.

    Raises:
        MixupValueError: If it has no shape that can be drawn.
    """
    match x.shape[1:]:
        case [] | [_] if x.numel() <= _BARS * len(x):
            return _Strip("bars", [x.reshape(len(x), -1)])
        case [_]:
            return _Strip("lines", [x[:, None]])
        case [channels, times] if channels <= min(_CHANNELS, times / 2):
            few = len(_INK)
            note = f", {few} of {channels} channels" if channels > few else ""
            return _Strip("lines", [x[:, :few]], note)
        case [_, _]:
            return _Strip("picture", [x])
        case [3 | 4, _, _]:
            return _Strip("image", [x.movedim(1, -1)])
        case [channels, _, _]:
            note = f", mean of {channels} channels" if channels > 1 else ""
            return _Strip("picture", [x.mean(dim=1)], note)
        case [_, frames, _, _]:
            still = _drawable(x[:, :, frames // 2])
            note = f", frame {frames // 2 + 1} of {frames}{still.note}"
            return _Strip(still.kind, still.panels, note)
    raise MixupValueError(
        f"show() can't draw inputs of shape {tuple(x.shape)}. It draws (B, N), (B, C, T), "
        "(B, C, H, W) and (B, C, T, H, W): of others, draw `callback.recipe(x, y)` yourself."
    )


def _is_map(y: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Returns whether a target has a label for each place of an input."""
    sizes = [x.shape[2:] for x in inputs if x.ndim > 2]
    return y.ndim > 2 or (y.ndim == 2 and y.shape[1:] in sizes)


def _strip_of_map(y: Tensor, mix: Mix) -> _Strip:
    """Returns how maps of labels are drawn: in colors, unless they are quantities."""
    mixed = mix.label(y)
    if y.is_floating_point() or y.is_complex():
        return _strip(y, mixed, mix)
    several = mixed.candidates if isinstance(mixed, MixedTarget) else [mixed]
    shares = mixed.weights.cpu() if isinstance(mixed, MixedTarget) else torch.ones(1)
    clean = [_flat(each) for each in (y, *(take_partners(y, shift) for _, shift in mix.shares))]
    rows = [_flat(each) for each in several]
    if y.ndim == 2:
        return _Strip(
            "lines", [*(each[:, None] for each in clean), torch.stack(rows, dim=1)], ", map"
        )
    blend = sum(
        _painted(row) * share.reshape(-1, 1, 1, 1)
        for row, share in zip(rows, shares.float(), strict=True)
    )
    return _Strip("image", [*map(_painted, clean), blend], ", map")


def _flat(y: Tensor) -> Tensor:
    """Returns labels of at most two dimensions: of a volume or a video those in the middle."""
    y = y.detach().cpu().long()
    while y.ndim > 3:
        y = y[:, y.shape[1] // 2]
    return y


def _painted(y: Tensor) -> Tensor:
    """Returns the colors of classes, of shape (*, 3)."""
    hexes = (*_COLORS, _IGNORED)
    colors = torch.tensor([[int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)] for text in hexes])
    is_ignored = (y < 0) | (y == 255)
    return colors[torch.where(is_ignored, len(_COLORS), y % len(_COLORS))]


# What is written.


@dataclass(frozen=True)
class _Label:
    """How a target is put into words."""

    y: Tensor
    names: Sequence[str] | None

    @property
    def is_hot(self) -> bool:
        """Whether each class has an entry, 1 where it is there."""
        is_wide = self.y.ndim == 2 and self.y.shape[1] > 1
        return is_wide and bool(((self.y == 0) | (self.y == 1)).all())

    def words(self, value: Tensor) -> str:
        """Returns what one sample's value says."""
        if self.is_hot:
            shares = {k: float(value[k]) for k in value.nonzero().flatten().tolist()}
            if (self.y.sum(dim=1) == 1).all():
                return _sum([(share, self._name(k)) for k, share in shares.items()])
            return f"[{', '.join(_sum([(share, self._name(k))]) for k, share in shares.items())}]"
        numbers = [self._number(number) for number in value.flatten()[:4]]
        more = [" …"] * (value.numel() > len(numbers))
        return numbers[0] if value.numel() == 1 else f"[{', '.join(numbers)}{''.join(more)}]"

    def mixed(self, target: Tensor, i: int) -> str:
        """Returns what a mixed target says of sample i."""
        if not isinstance(target, MixedTarget) or target.kind is not Kind.LABEL:
            return self.words(merge(target).detach()[i].cpu())
        shares: dict[str, float] = {}
        weights = target.weights.reshape(len(target.weights), -1)
        for row, weight in zip(target.candidates, weights.tolist(), strict=True):
            said = self.words(row[i].cpu())
            shares[said] = shares.get(said, 0) + weight[i % len(weight)]
        return _sum([(share, said) for said, share in shares.items()])

    def _number(self, value: Tensor) -> str:
        if value.is_floating_point() or value.is_complex():
            return f"{value.item():.3g}"
        return self._name(int(value))

    def _name(self, index: int) -> str:
        is_named = self.names is not None and 0 <= index < len(self.names)
        return self.names[index] if is_named else str(index)  # type: ignore[index]


def _sum(parts: Sequence[tuple[float, str]]) -> str:
    """Writes shares of classes, as in 0.72 × cat + 0.28 × dog; of a whole one no number."""
    text = ""
    for share, name in parts:
        said = name if f"{share:.2f}" == "1.00" else f"{abs(share):.2f}{_TIMES}{name}"
        sign = "−" if share < 0 else "+"
        text += f" {sign} {said}" if text else f"{sign}{said}".removeprefix("+")
    return text or "none"


def _captions(
    targets: Sequence[Tensor], mix: Mix, count: int, names: Sequence[str] | None
) -> list[list[list[str]]]:
    """Returns the lines above a sample, each of its partners, and the mixed one, for each row."""
    labels = [_Label(y.detach().cpu(), names) for y in targets]
    mixed = [mix.label(y) for y in targets]
    partners = [partner_indices(s, mix.batch_size, mix.device).tolist() for _, s in mix.shares]

    def said(i: int) -> list[str]:
        return [f"label {label.words(label.y[i])}" for label in labels]

    captions = []
    for i in range(count):
        row = [[f"sample {i}", *said(i)]]
        for (share, _), partner in zip(mix.shares, partners, strict=True):
            name = "itself" if partner[i] == i else f"sample {partner[i]}"
            part = "" if isinstance(mix, Summed) else f"{_at(share, i):.2f} of "
            row.append([f"with {part}{name}", *said(partner[i])])
        own = f"mixed, {_at(mix.drawn, i):.2f} of itself"
        head = f"sum of {len(row)}" if isinstance(mix, Summed) else own
        whole = [label.mixed(y, i) for label, y in zip(labels, mixed, strict=True)]
        whole = [text if "×" in text else f"label {text}" for text in whole]  # a sum shows it
        captions.append([*row, [head, *whole]])
    return captions


def _at(weight: Weight, i: int) -> float:
    return weight if isinstance(weight, float) else float(weight[i])


# How it is drawn.


def _draw(strips: Sequence[_Strip], captions: list[list[list[str]]], title: str) -> Figure:
    sizes = [_size(strip) for strip in strips for _ in strip.panels]
    widths, tallest = [width for width, _ in sizes], max(height for _, height in sizes)
    canvas = new_figure(sum(widths) + 0.15, 1)
    grid = canvas.subplots(len(captions), len(widths), squeeze=False, width_ratios=widths)
    lines = 0
    for i, texts in enumerate(captions):
        first = 0
        for strip in strips:
            row = grid[i][first : first + len(texts)]
            heads = texts if strip is strips[0] else [text[:1] for text in texts]  # once is enough
            heads = [[heads[0][0] + strip.note, *heads[0][1:]], *heads[1:]]
            _draw_row(row, strip, i)
            _write(row, heads, _size(strip)[0] - (0.35 if strip.is_flat else 0.05))
            first += len(texts)
        lines += max(axes.get_title(loc="left").count("\n") + 1 for axes in grid[i])
    canvas.set_figheight(len(captions) * (tallest + 0.15) + 0.16 * lines + 0.3 * bool(title))
    draw_title(canvas, title)
    return canvas


def _write(panels: Sequence[Axes], captions: Sequence[Sequence[str]], width: float) -> None:
    """Writes captions, in lines that are at most as wide as a panel, in inches."""
    for axes, lines in zip(panels, captions, strict=True):
        text = axes.set_title("\n".join(lines), **_TEXT)
        wrap(text, width * axes.figure.dpi)


def _size(strip: _Strip) -> tuple[float, float]:
    """Returns how wide and high its panels are, in inches: of one area, for any format."""
    if strip.is_flat:
        return 2.2, 1.1
    height, width = strip.panels[0].shape[1:3]
    side = min(max(width / height, 0.5), 2.5) ** 0.5
    return 1.8 * side, 1.8 / side


def _draw_row(panels: Sequence[Axes], strip: _Strip, i: int) -> None:
    """Draws a sample, its partners and the mixed one on a common scale."""
    values = [panel[i].numpy() for panel in strip.panels]
    low, high = _range(np.concatenate([_scaled(strip, value).ravel() for value in values]))
    room = 0.06 * (high - low) or 1
    for axes, value in zip(panels, values, strict=True):
        axes.set_anchor("W")  # below its caption
        if strip.kind == "image":
            axes.imshow(_stretched(value, low, high))
        elif strip.kind == "picture":
            shape: Any = "equal" if 1 / 3 <= value.shape[0] / value.shape[1] <= 3 else "auto"
            axes.imshow(value, cmap="magma", vmin=low, vmax=high, aspect=shape)
        elif strip.kind == "lines":
            for channel, color in zip(value, cycle(_INK), strict=False):
                axes.plot(channel, color=color, linewidth=1)
            axes.set(xlim=(0, max(value.shape[1] - 1, 1)), ylim=(low - room, high + room))
        else:
            axes.bar(range(len(value)), value, color="#8A93A3")
            axes.axhline(0, color="black", linewidth=0.6)
            axes.set_ylim(min(low - room, 0), max(high + room, 0))
        axes.tick_params(bottom=False, labelbottom=False, labelsize=6)
        axes.tick_params(left=strip.is_flat, labelleft=strip.is_flat)
        if strip.is_flat:
            axes.locator_params(axis="y", nbins=5)


def _scaled(strip: _Strip, value: _Array) -> _Array:
    """Returns what the scale is about, which transparency isn't."""
    return value[..., :3] if strip.kind == "image" else value


def _range(values: _Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _stretched(image: _Array, low: float, high: float) -> _Array:
    """Returns colors in [0, 1]: as they are, if all of the row are."""
    if low >= 0 and high <= 1:
        return image
    color = (image[..., :3] - low) / (high - low or 1)
    return np.concatenate([color, image[..., 3:]], axis=-1).clip(0, 1)
