"""Evaluation of a finished run: synthetic data sets, segmentation models, metrics."""

from asyndgan.evaluation.compare import Evaluation, evaluate
from asyndgan.evaluation.of_run import evaluate_run, synthetic_of_run
from asyndgan.evaluation.segmentation import SegmentationBudget
from asyndgan.evaluation.synthesise import (
    masks_digest,
    masks_in,
    released_masks,
    source_of_masks,
    synthesise,
    write_synthetic,
)

__all__ = [
    "Evaluation",
    "SegmentationBudget",
    "evaluate",
    "evaluate_run",
    "masks_digest",
    "masks_in",
    "released_masks",
    "source_of_masks",
    "synthesise",
    "synthetic_of_run",
    "write_synthetic",
]
