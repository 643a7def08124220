"""Where a fit stands and when it ends, as the Trainer tells."""

from __future__ import annotations

import math

from lightning.pytorch import LightningModule, Trainer

from lightning_mixup.schedules import End, find_end

__all__ = ["batch_number", "data_rank", "end_of_fit"]


def batch_number(trainer: Trainer) -> int:
    """Returns how many steps went before, by Lightning's own count of them.

    Of its counts this one alone is right however a run was stopped and resumed: `total_batch_idx`
    counts the step twice that an exception broke off.
    """
    steps = trainer.fit_loop.epoch_loop.batch_progress.total
    return steps.processed  # type: ignore[attr-defined, no-any-return]


def data_rank(trainer: Trainer) -> int:
    """Returns whose share of the data this is: ranks that split up a module have it in common."""
    share = trainer.distributed_sampler_kwargs  # None in a single process
    return trainer.global_rank if share is None else int(share["rank"])


def end_of_fit(trainer: Trainer, module: LightningModule) -> End:
    """Returns when the fit will have ended, as far as the Trainer and its loader tell."""
    kinds = {kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__}  # type: ignore[attr-defined]
    is_even = module.automatic_optimization and "GradientAccumulationScheduler" not in kinds
    batches = trainer.num_training_batches
    return find_end(
        -1 if trainer.max_epochs is None else trainer.max_epochs,
        trainer.max_steps,
        None if math.isinf(batches) else int(batches),
        trainer.accumulate_grad_batches if is_even else None,
    )
