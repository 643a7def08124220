"""Mixup and a calibration monitor for PyTorch Lightning, as callbacks."""

import lightning_mixup.rules  # noqa: F401  gives MixedTarget its rule
from lightning_mixup.calibration import BinaryCalibrationStatistics, CalibrationStatistics
from lightning_mixup.callback import MixupCallback
from lightning_mixup.choices import ByEpoch, OneOf, RegMixup
from lightning_mixup.errors import MixupError
from lightning_mixup.figures import classification_metrics
from lightning_mixup.gallery import mix_plot
from lightning_mixup.mixes import Mix
from lightning_mixup.monitor import CalibrationMonitor
from lightning_mixup.partners import (
    Affinity,
    AnyOther,
    LabelKernel,
    NearestNeighbors,
    OtherClass,
    SameClass,
)
from lightning_mixup.plot import (
    compare_reports,
    history_plot,
    reliability_diagram,
    report_plot,
)
from lightning_mixup.recipes import CutMix, Mixup, Overlay, Recipe, ResizeMix, SamplePairing
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.report import read_report
from lightning_mixup.schedules import Alternate, Fade, OffAtEnd, Schedule, WarmUp
from lightning_mixup.targets import MixedTarget, merge
from lightning_mixup.temperature import TemperatureScaled
from lightning_mixup.weights import Beta, Fixed, Uniform, Weights

__version__ = "0.1.0.dev0"

__all__ = [
    "Affinity",
    "Alternate",
    "AnyOther",
    "Beta",
    "BinaryCalibrationStatistics",
    "ByEpoch",
    "CalibrationMonitor",
    "CalibrationStatistics",
    "CutMix",
    "Fade",
    "Fixed",
    "LabelKernel",
    "Mix",
    "MixedTarget",
    "Mixup",
    "MixupCallback",
    "MixupError",
    "NearestNeighbors",
    "OffAtEnd",
    "OneOf",
    "OtherClass",
    "Overlay",
    "Recipe",
    "RegMixup",
    "ReliabilityBins",
    "ResizeMix",
    "SameClass",
    "SamplePairing",
    "Schedule",
    "TemperatureScaled",
    "Uniform",
    "WarmUp",
    "Weights",
    "classification_metrics",
    "compare_reports",
    "history_plot",
    "merge",
    "mix_plot",
    "read_report",
    "reliability_diagram",
    "report_plot",
]
