"""The losses, one expression a line, as they stand in a training step: of logits x and labels y.

Labels are class indices or zeros and ones, all integers: float targets would be interpolated.
"""
# ruff: noqa: F401  the expressions use the imports

from __future__ import annotations

import balanced_loss
import catalyst.contrib.losses
import coral_pytorch.dataset
import coral_pytorch.losses
import fastai.losses
import focal_loss.focal_loss
import kornia.losses
import monai.losses
import pytorch_metric_learning.losses as metric_losses
import pytorch_optimizer.loss
import pytorch_toolbelt.losses
import segmentation_models_pytorch.losses as smp
import timm.loss
import torch
import torch_uncertainty.losses
import torchvision.ops
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CLASSES", "LOSSES", "evaluate"]

CLASSES = 4
WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.1], dtype=torch.float64)
DISTANCES = 1 - torch.eye(CLASSES)

LOSSES = {
    "classes": """
        timm.loss.LabelSmoothingCrossEntropy()(x, y)
        timm.loss.LabelSmoothingCrossEntropy(0.3)(x, y)
        timm.loss.SoftTargetCrossEntropy()(x, one_hot(y).to(x))
        timm.loss.BinaryCrossEntropy()(x, y)
        timm.loss.BinaryCrossEntropy(smoothing=0, reduction="sum")(x, y)
        timm.loss.BinaryCrossEntropy(weight=WEIGHT, pos_weight=3.0)(x, y)
        timm.loss.BinaryCrossEntropy(target_threshold=0.2)(x, y)
        timm.loss.BinaryCrossEntropy(sum_classes=True)(x, y)
        timm.loss.AsymmetricLossSingleLabel()(x, y)
        timm.loss.AsymmetricLossSingleLabel(gamma_pos=0, gamma_neg=2, eps=0)(x, y)
        timm.loss.PolyCrossEntropy()(x, y)
        timm.loss.PolyCrossEntropy(smoothing=0.1)(x, y)
        timm.loss.PolyCrossEntropy(epsilon=-1, reduction="none")(x, y).mean()
        timm.loss.JsdCrossEntropy()(x, y)
        timm.loss.JsdCrossEntropy(smoothing=0)(x, y)
        timm.loss.create_classification_loss(smoothing=0.1)(x, y)
        torchvision.ops.sigmoid_focal_loss(x, one_hot(y).to(x), reduction="mean")
        torchvision.ops.sigmoid_focal_loss(x, one_hot(y).to(x), alpha=-1, reduction="sum")
        torchvision.ops.sigmoid_focal_loss(x, one_hot(y).to(x), gamma=3).sum(1).mean()
        torch_uncertainty.losses.FocalLoss(gamma=2)(x, y)
        torch_uncertainty.losses.FocalLoss(gamma=0.5, alpha=WEIGHT, reduction="sum")(x, y)
        torch_uncertainty.losses.ConfidencePenaltyLoss()(x, y)
        torch_uncertainty.losses.ConfidencePenaltyLoss(0.3, reduction="none")(x, y).mean()
        torch_uncertainty.losses.ConflictualLoss()(x, y)
        torch_uncertainty.losses.CrossEntropyMaxSupLoss(0.1, 0.2)(x, y)
        torch_uncertainty.losses.MixupMPLoss()(x, y)
        torch_uncertainty.losses.DECLoss()(x.exp(), y)
        torch_uncertainty.losses.DECLoss(reg_weight=0.1, loss_type="mse")(x.exp(), y)
        torch_uncertainty.losses.DECLoss(10, loss_type="digamma")(x.exp(), y, 3)
        fastai.losses.CrossEntropyLossFlat()(x, y)
        fastai.losses.CrossEntropyLossFlat(weight=WEIGHT.float(), ignore_index=1)(x.float(), y)
        fastai.losses.FocalLossFlat(gamma=2)(x, y)
        fastai.losses.FocalLossFlat(weight=WEIGHT.float(), reduction="sum")(x.float(), y)
        fastai.losses.LabelSmoothingCrossEntropy()(x, y)
        fastai.losses.LabelSmoothingCrossEntropyFlat(eps=0.2)(x, y)
        focal_loss.focal_loss.FocalLoss(gamma=0.7)(x.softmax(1), y)
        focal_loss.focal_loss.FocalLoss(gamma=2, weights=WEIGHT)(x.softmax(1), y)
        focal_loss.focal_loss.FocalLoss(gamma=2, reduction="sum")(x.softmax(1), y)
        focal_loss.focal_loss.FocalLoss(gamma=2, ignore_index=1)(x.softmax(1), y)
        balanced_loss.Loss()(x.float(), y)
        balanced_loss.Loss("focal_loss")(x, y)
        balanced_loss.Loss("focal_loss", 0.9, 2, [5, 9, 2, 4], True)(x, y)
        balanced_loss.Loss("cross_entropy", 0.9, 2, [5, 9, 2, 4], True)(x.float(), y)
        balanced_loss.Loss("binary_cross_entropy", 0.9, 2, [5, 9, 2, 4], True)(x.float(), y)
        balanced_loss.Loss("softmax_binary_cross_entropy")(x.float(), y)
        coral_pytorch.losses.coral_loss(x[:, 1:], levels(y).to(x))
        coral_pytorch.losses.CoralLoss()(x[:, 1:], levels(y).to(x), WEIGHT[1:])
        coral_pytorch.losses.CoralLoss("sum")(x[:, 1:], levels(y).to(x))
        coral_pytorch.losses.CoralLoss()(x[:, 1:], levels_from_labelbatch(y, CLASSES))
        coral_pytorch.losses.CornLoss(CLASSES)(x[:, 1:], y)
        pytorch_optimizer.loss.LDAMLoss([5, 9, 2, 4])(x, y)
        pytorch_optimizer.loss.LDAMLoss([5, 9, 2, 4], weight=WEIGHT)(x, y)
        pytorch_optimizer.loss.FocalCosineLoss()(x, y)
        pytorch_optimizer.loss.BiTemperedLogisticLoss(0.8, 1.2)(x, y)
        pytorch_optimizer.loss.BiTemperedLogisticLoss(0.8, 1.2, label_smooth=0.1)(x, y)
        pytorch_toolbelt.losses.CrossEntropyFocalLoss()(x, y)
        pytorch_toolbelt.losses.CrossEntropyFocalLoss(normalized=True)(x, y)
        pytorch_toolbelt.losses.CrossEntropyFocalLoss(reduced_threshold=0.5)(x, y)
        pytorch_toolbelt.losses.CrossEntropyFocalLoss(class_weights=WEIGHT, ignore_index=1)(x, y)
        pytorch_toolbelt.losses.FocalCosineLoss()(x, y)
        pytorch_toolbelt.losses.SoftCrossEntropyLoss(smooth_factor=0.1)(x, y)
        pytorch_toolbelt.losses.BiTemperedLogisticLoss(0.8, 1.2)(x, y)
        pytorch_toolbelt.losses.SoftF1Loss()(x, y)
        catalyst.contrib.losses.SymmetricCrossEntropyLoss()(x, y)
        catalyst.contrib.losses.NaiveCrossEntropyLoss()(x, one_hot(y))
        catalyst.contrib.losses.FocalLossMultiClass()(x, y)
        kornia.losses.FocalLoss(0.25, reduction="mean")(x, y)
        monai.losses.FocalLoss(use_softmax=True)(x, one_hot(y))
        monai.losses.FocalLoss(alpha=0.3, weight=WEIGHT)(x, one_hot(y))
    """,
    "embeddings": """
        metric_losses.ArcFaceLoss(CLASSES, 6)(x, y)
        metric_losses.SubCenterArcFaceLoss(num_classes=CLASSES, embedding_size=6)(x, y)
        metric_losses.CosFaceLoss(CLASSES, 6)(x, y)
        metric_losses.SphereFaceLoss(CLASSES, 6)(x, y)
        metric_losses.LargeMarginSoftmaxLoss(CLASSES, 6)(x, y)
        metric_losses.NormalizedSoftmaxLoss(CLASSES, 6)(x, y)
        metric_losses.SoftTripleLoss(CLASSES, 6)(x, y)
        metric_losses.ProxyNCALoss(CLASSES, 6)(x, y)
        metric_losses.ProxyAnchorLoss(CLASSES, 6)(x, y)
        metric_losses.P2SGradLoss(6, CLASSES)(x, y)
        metric_losses.ContrastiveLoss()(x, y)
        metric_losses.TripletMarginLoss()(x, y)
        metric_losses.MultiSimilarityLoss()(x, y)
        metric_losses.NTXentLoss()(x, y)
        metric_losses.SupConLoss()(x, y)
        metric_losses.CircleLoss()(x, y)
        metric_losses.NCALoss()(x, y)
        catalyst.contrib.losses.SupervisedContrastiveLoss(0.5)(F.normalize(x), y % 2)
        catalyst.contrib.losses.TripletLoss()(x, y)
        catalyst.contrib.losses.CircleLoss(0.25, 16)(F.normalize(x), y)
    """,
    "binary": """
        torchvision.ops.sigmoid_focal_loss(x, y.to(x), reduction="mean")
        timm.loss.PolyBinaryCrossEntropy()(x, y)
        timm.loss.PolyBinaryCrossEntropy(gamma=2, alpha=0.25)(x, y)
        torch_uncertainty.losses.BCEWithLogitsLSLoss()(x, y)
        torch_uncertainty.losses.BCEWithLogitsLSLoss(0.1, reduction="sum")(x, y)
        fastai.losses.BCEWithLogitsLossFlat()(x.float(), y)
        fastai.losses.BCELossFlat()(x.float().sigmoid(), y)
        pytorch_optimizer.loss.BCELoss(label_smooth=0.1)(x.sigmoid(), y.to(x))
        pytorch_optimizer.loss.BCEFocalLoss()(x.sigmoid(), y.to(x))
        pytorch_optimizer.loss.FocalLoss()(x, y.to(x))
        pytorch_optimizer.loss.BinaryBiTemperedLogisticLoss(0.8, 1.2)(x[:, None], y[:, None])
        pytorch_toolbelt.losses.BinaryFocalLoss()(x, y)
        pytorch_toolbelt.losses.BinaryFocalLoss(alpha=0.25, normalized=True)(x, y)
        pytorch_toolbelt.losses.BinaryFocalLoss(alpha=0.25, reduced_threshold=0.5)(x, y)
        pytorch_toolbelt.losses.BinaryFocalLoss(ignore_index=-1, reduction="sum")(x, y)
        pytorch_toolbelt.losses.BalancedBCEWithLogitsLoss()(x, y)
        pytorch_toolbelt.losses.QualityFocalLoss()(x, y.to(x))
        pytorch_toolbelt.losses.BinarySoftF1Loss()(x, y)
        pytorch_toolbelt.losses.SoftBCEWithLogitsLoss(smooth_factor=0.1)(x, y.to(x))
        pytorch_toolbelt.losses.BinaryBiTemperedLogisticLoss(0.8, 1.2)(x[:, None], y[:, None])
        catalyst.contrib.losses.FocalLossBinary()(x, y)
        catalyst.contrib.losses.FocalLossBinary(ignore=-1, reduced=True)(x, y)
        kornia.losses.BinaryFocalLossWithLogits(0.25, reduction="mean")(x[:, None], y[:, None])
        monai.losses.AUCMLoss()(x[:, None].sigmoid(), y[:, None])
    """,
    "multilabel": """
        timm.loss.BinaryCrossEntropy(smooth_dense=True)(x, y.to(x))
        timm.loss.AsymmetricLossMultiLabel()(x, y)
        timm.loss.AsymmetricLossMultiLabel(gamma_neg=0, gamma_pos=0, clip=None)(x, y)
        timm.loss.AsymmetricLossMultiLabel(smoothing=0.1, pos_weight=2.0, reduction="sum")(x, y)
        timm.loss.AsymmetricLossMultiLabel(disable_torch_grad_focal_loss=True)(x, y)
        timm.loss.PolyBinaryCrossEntropy(smoothing=0.1, reduction="batchmean")(x, y)
        timm.loss.DistributionBalancedLoss([5, 9, 2, 4], 20)(x, y)
        timm.loss.DistributionBalancedLoss([5, 9, 2, 4], 20, focal_gamma=0, smoothing=0.1)(x, y)
        timm.loss.ZlprLoss()(x, y)
        timm.loss.TwoWayLoss()(x, y)
        torchvision.ops.sigmoid_focal_loss(x, y.to(x), alpha=0.5, reduction="mean")
        fastai.losses.BCEWithLogitsLossFlat()(x.float(), y)
        fastai.losses.BCEWithLogitsLossFlat(pos_weight=WEIGHT, flatten=False)(x, y)
        monai.losses.FocalLoss(gamma=1.5)(x, y)
    """,
    "maps": """
        kornia.losses.FocalLoss(0.25, reduction="mean")(x, y)
        kornia.losses.FocalLoss(None, gamma=1.5, reduction="sum")(x, y)
        kornia.losses.FocalLoss(0.25, weight=WEIGHT, reduction="mean")(x, y)
        kornia.losses.FocalLoss(0.25, ignore_index=1)(x, y).sum((1, 2, 3)).mean()
        kornia.losses.focal_loss(x, y, alpha=0.5, ignore_index=1, reduction="mean")
        kornia.losses.DiceLoss()(x, y)
        kornia.losses.DiceLoss("macro", weight=WEIGHT)(x, y)
        kornia.losses.dice_loss(x, y, ignore_index=1)
        kornia.losses.TverskyLoss(0.3, 0.7)(x, y)
        kornia.losses.LovaszSoftmaxLoss()(x, y)
        kornia.losses.HausdorffERLoss(k=3)(x, y[:, None])
        smp.SoftCrossEntropyLoss(smooth_factor=0.1)(x, y)
        smp.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=1, reduction="sum")(x, y)
        smp.FocalLoss("multiclass")(x, y)
        smp.FocalLoss("multiclass", alpha=0.25, class_weights=WEIGHT.tolist())(x, y)
        smp.FocalLoss("multiclass", normalized=True)(x, y)
        smp.FocalLoss("multiclass", reduced_threshold=0.5)(x, y)
        smp.FocalLoss("multiclass", ignore_index=1)(x, y)
        smp.DiceLoss("multiclass")(x, y)
        smp.DiceLoss("multiclass", log_loss=True, classes=[1, 2])(x, y)
        smp.DiceLoss("multiclass", ignore_index=1)(x, y)
        smp.JaccardLoss("multiclass")(x, y)
        smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=1.5)(x, y)
        smp.LovaszLoss("multiclass")(x.float(), y)
        smp.LovaszLoss("multiclass", per_image=True, ignore_index=1)(x.float(), y)
        monai.losses.FocalLoss(to_onehot_y=True, use_softmax=True)(x, y[:, None])
        monai.losses.FocalLoss(False, to_onehot_y=True, alpha=0.3, weight=2.0)(x, y[:, None])
        monai.losses.DiceLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.DiceLoss(softmax=True, squared_pred=True, jaccard=True)(x, one_hot(y).to(x))
        monai.losses.DiceLoss(softmax=True, batch=True, **EXACT)(x, one_hot(y))
        monai.losses.DiceLoss(False, True, softmax=True, weight=WEIGHT[1:])(x, y[:, None])
        monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.DiceCELoss(softmax=True, weight=WEIGHT)(x, one_hot(y).to(x))
        monai.losses.DiceFocalLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.GeneralizedDiceLoss(softmax=True, batch=True, **EXACT)(x, one_hot(y))
        monai.losses.GeneralizedDiceFocalLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.GeneralizedWassersteinDiceLoss(DISTANCES)(x.float(), y[:, None])
        monai.losses.TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3)(x, y[:, None])
        monai.losses.TverskyLoss(softmax=True, batch=True, **EXACT)(x, one_hot(y))
        monai.losses.MCCLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.HausdorffDTLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.LogHausdorffDTLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.BoundaryLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.NACLLoss(CLASSES, 2)(x, y)
        monai.losses.SoftclDiceLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.SoftDiceclDiceLoss(to_onehot_y=True, softmax=True)(x, y[:, None])
        monai.losses.AsymmetricUnifiedFocalLoss(num_classes=CLASSES)(x.softmax(1), one_hot(y))
        fastai.losses.CrossEntropyLossFlat(axis=1)(x, y)
        fastai.losses.DiceLoss()(x, y)
        fastai.losses.FocalLossFlat(axis=1)(x, y)
        fastai.losses.LabelSmoothingCrossEntropyFlat(axis=1)(x, y)
        pytorch_toolbelt.losses.CrossEntropyFocalLoss()(x, y)
        pytorch_toolbelt.losses.DiceLoss("multiclass")(x, y)
        pytorch_toolbelt.losses.JaccardLoss("multiclass")(x, y)
        pytorch_toolbelt.losses.LovaszLoss()(x.float().softmax(1), y)
        pytorch_optimizer.loss.DiceLoss("multiclass")(x, y)
        pytorch_optimizer.loss.JaccardLoss("multiclass")(x, y)
        catalyst.contrib.losses.DiceLoss()(x.softmax(1), one_hot(y))
        catalyst.contrib.losses.IoULoss(mode="micro")(x.softmax(1), one_hot(y))
        catalyst.contrib.losses.TrevskyLoss(0.3)(x.softmax(1), one_hot(y))
        catalyst.contrib.losses.FocalTrevskyLoss(0.3)(x.softmax(1), one_hot(y))
        catalyst.contrib.losses.LovaszLossMultiClass()(x.float().softmax(1), y)
    """,
    "binary maps": """
        torchvision.ops.sigmoid_focal_loss(x, y.to(x)).mean()
        kornia.losses.BinaryFocalLossWithLogits(0.25, reduction="mean")(x, y)
        kornia.losses.BinaryFocalLossWithLogits(None, gamma=1.5, reduction="sum")(x, y)
        kornia.losses.BinaryFocalLossWithLogits(0.25, ignore_index=-1)(x, y).mean()
        kornia.losses.LovaszHingeLoss()(x, y[:, 0])
        smp.SoftBCEWithLogitsLoss()(x, y.to(x))
        smp.SoftBCEWithLogitsLoss(smooth_factor=0.1, pos_weight=WEIGHT[2])(x, y.to(x))
        smp.FocalLoss("binary")(x, y)
        smp.FocalLoss("binary", alpha=0.25, normalized=True, reduction="sum")(x, y)
        smp.FocalLoss("binary", ignore_index=-1)(x, y)
        smp.DiceLoss("binary")(x, y)
        smp.JaccardLoss("binary", smooth=0.01)(x, y)
        smp.TverskyLoss("binary")(x, y)
        smp.LovaszLoss("binary")(x.float(), y)
        smp.LovaszLoss("binary", per_image=True)(x.float(), y)
        smp.MCCLoss()(x.sigmoid(), y)
        monai.losses.FocalLoss()(x, y)
        monai.losses.DiceLoss(sigmoid=True)(x, y)
        monai.losses.DiceCELoss(sigmoid=True)(x, y)
        monai.losses.TverskyLoss(sigmoid=True, batch=True, **EXACT)(x, y)
        monai.losses.HausdorffDTLoss(include_background=True, sigmoid=True)(x, y)
        monai.losses.MCCLoss(sigmoid=True, batch=True)(x, y)
        pytorch_optimizer.loss.DiceLoss()(x, y)
        pytorch_optimizer.loss.JaccardLoss("binary")(x, y)
        pytorch_optimizer.loss.TverskyLoss()(x, y)
        pytorch_optimizer.loss.FocalTverskyLoss(gamma=1.5)(x, y)
        pytorch_optimizer.loss.LovaszHingeLoss()(x[:, 0], y[:, 0])
        pytorch_optimizer.loss.SoftF1Loss()(x, y)
        pytorch_toolbelt.losses.BinaryFocalLoss()(x, y)
        pytorch_toolbelt.losses.BinaryLovaszLoss()(x[:, 0].float(), y[:, 0])
        pytorch_toolbelt.losses.DiceLoss("binary")(x, y)
        pytorch_toolbelt.losses.SoftBCEWithLogitsLoss()(x, y.to(x))
        catalyst.contrib.losses.LovaszLossBinary()(x.float(), y)
        catalyst.contrib.losses.FocalLossBinary()(x, y)
    """,
    "multilabel maps": """
        smp.FocalLoss("multilabel")(x, y)
        smp.DiceLoss("multilabel")(x, y)
        smp.JaccardLoss("multilabel", log_loss=True)(x, y)
        smp.TverskyLoss("multilabel", class_weights=WEIGHT.tolist())(x, y)
        smp.LovaszLoss("multilabel")(x.float(), y)
        monai.losses.DiceLoss(sigmoid=True)(x, y)
        monai.losses.DiceFocalLoss(sigmoid=True)(x, y)
        pytorch_toolbelt.losses.DiceLoss("multilabel")(x, y)
        catalyst.contrib.losses.LovaszLossMultiLabel()(x.float(), y)
    """,
}

# What smooths a ratio of sums would count for more in a small batch.
EXACT = {"smooth_nr": 0, "smooth_dr": 0}

levels_from_labelbatch = coral_pytorch.dataset.levels_from_labelbatch


def one_hot(y: Tensor) -> Tensor:
    """Returns zeros and ones of shape (B, C, *)."""
    return F.one_hot(y, CLASSES).movedim(-1, 1)


def levels(y: Tensor) -> Tensor:
    """Returns which of the thresholds between ordered classes a label passes."""
    return y[:, None] > torch.arange(CLASSES - 1)


def evaluate(expression: str, x: Tensor, y: Tensor) -> Tensor:
    """Computes one of the losses, with the same parameters and random numbers every time."""
    torch.manual_seed(0)
    return eval(expression, globals(), {"x": x, "y": y})
