"""Where a report goes: a file in the run's log folder, and pictures to the loggers that show them.

What fails here, such as a full disk or a server out of reach, is a warning: a training of days
must not end in an error for a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from lightning_mixup.plot import report_plot
from lightning_mixup.report import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Publisher", "warning_of"]

# By the names of Lightning's loggers, which are the same in its two packages.
_SHOW: dict[str, Callable[[Any, str, NDArray[np.uint8], int], object]] = {
    "TensorBoardLogger": lambda logger, tag, image, step: logger.experiment.add_image(
        tag, image, step, dataformats="HWC"
    ),
    "WandbLogger": lambda logger, tag, image, step: logger.log_image(tag, [image], step),
    "MLFlowLogger": lambda logger, tag, image, step: logger.experiment.log_image(
        logger.run_id, image, f"{tag}.png"
    ),
    "CometLogger": lambda logger, tag, image, step: logger.experiment.log_image(
        image, name=tag, step=step
    ),
}
_DPI = 150
_FINAL = ("noise_floor", "adaptive_ece", "temperature", "ece_at_temperature")


class Publisher:
    """Puts a report where people look for it; on the first process alone.

    Args:
        prefix: Put in front of every name; in those of files, a slash becomes an underscore.
        pictures: Whether to draw, where matplotlib is installed.
    """

    def __init__(self, prefix: str, *, pictures: bool) -> None:
        self._prefix, self._pictures = prefix, pictures
        self._own: dict[str, str] = {}  # the files written in this run, by their usual paths

    def publish(self, trainer: Trainer, report: Mapping[str, Any], names: list[str]) -> None:
        """Saves a report, and logs and draws those of its entries that are new.

        Args:
            trainer: Whose loggers and folder these are.
            report: All entries.
            names: Which of them are new.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        folder = None
        with warning_of("saved"):
            folder = _log_folder(trainer)
        for name in names:
            self._log(trainer, name, report[name], step)
            if self._pictures and find_spec("matplotlib") is not None:
                with warning_of("drawn"):
                    self._draw(trainer, name, report[name], step, folder)
        if folder is not None:
            with warning_of("saved"):
                self._write(folder, "calibration.json", as_json(report).encode())

    def _log(self, trainer: Trainer, name: str, entry: Mapping[str, Any], step: int) -> None:
        """Logs the figures that are known at the end alone."""
        stage, _, suffix = name.partition("/")
        final = {
            f"{self._prefix}{stage}_{each}{suffix and f'/{suffix}'}": entry[each]
            for each in _FINAL
            if entry[each] is not None
        }
        for logger in trainer.loggers:
            with warning_of("logged"):
                logger.log_metrics(final, step)

    def _draw(
        self, trainer: Trainer, name: str, entry: Mapping[str, Any], step: int, folder: str | None
    ) -> None:
        takers = [(logger, _SHOW[kind]) for logger in trainer.loggers for kind in _kinds(logger)]
        if not takers and folder is None:
            return
        figure = report_plot(entry, title=f"{self._prefix}{name}")
        tag = f"{self._prefix}calibration/{name}"
        for logger, show in takers:
            with warning_of("handed to a logger"):
                show(logger, tag, _pixels(figure), step)
        if not takers and folder is not None:
            short = name.replace("/dataloader_idx", "")
            drawn = BytesIO()
            figure.savefig(drawn, format="png", dpi=_DPI)
            self._write(folder, f"calibration_{short}.png", drawn.getvalue())

    def _write(self, folder: str, name: str, content: bytes) -> None:
        """Writes a file at once or not at all, and over none but those of this run."""
        path = os.path.join(folder, self._prefix.replace("/", "_").replace("\\", "_") + name)
        files = get_filesystem(folder)
        if path not in self._own:
            self._own[path] = _unused(files, path)
        files.makedirs(folder, exist_ok=True)
        with files.transaction, files.open(self._own[path], "wb") as file:
            file.write(content)


def _unused(files: Any, path: str) -> str:
    """Returns a path that no file has, numbered as checkpoints are."""
    stem, ending = os.path.splitext(path)
    unused, number = path, 0
    while files.exists(unused):
        number += 1
        unused = f"{stem}-v{number}{ending}"
    return unused


def _log_folder(trainer: Trainer) -> str | None:
    """Returns the folder of a run, beside its checkpoints.

    Without a logger, it is ``default_root_dir`` if one was given, and None if not: whoever turns
    the logger off wants no files in the working directory.
    """
    if not trainer.loggers:
        root = str(trainer.default_root_dir)
        return None if os.path.abspath(root) == os.getcwd() else root
    logger = trainer.loggers[0]
    own = getattr(logger, "log_dir", None)
    if own is not None:
        return str(own)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    root = str(logger.save_dir or trainer.default_root_dir)
    return os.path.join(root, str(logger.name), version)


def _kinds(logger: object) -> list[str]:
    return [base.__name__ for base in type(logger).__mro__ if base.__name__ in _SHOW]


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """Returns a picture of shape (height, width, 3)."""
    drawn = BytesIO()
    figure.savefig(drawn, format="rgba", dpi=_DPI)
    width = round(figure.get_figwidth() * _DPI)
    pixels = np.frombuffer(drawn.getvalue(), dtype=np.uint8).reshape(-1, width, 4)
    return pixels[..., :3].copy()


@contextmanager
def warning_of(what: str) -> Iterator[None]:
    """Turns an error into a warning; `what` could not be done with the report."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(
            f"CalibrationMonitor: the report could not be {what}: {type(error).__name__}: {error} "
            "CalibrationMonitor.report() has it."
        )
