"""Segmentation networks of synthetic street scenes, beside those of four fleets' real ones.

    python -m lab.experiments.streets --data DATA --out OUT [--seeds N] [--document FILE]

DATA holds `streets_camvid`: four drives, which stand for fleets. The recipe is planned, and trains
on all clips of the fleets. Every network is judged on the clips of `test`, by which nothing was
chosen.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

import asyndgan
from asyndgan.judging.table import REAL_ALL, SYNTHETIC, Evaluation
from asyndgan.runs.planned import planned
from lab.experiments.common import arguments, markdown, publish

SITES = ("site_1", "site_2", "site_3", "site_4")
CHANGES = ("masks.release=true", "masks.unlabelled=true")


def evaluated(data: Path, out: Path, seed: int) -> Evaluation:
    """A finished training of a seed, and what networks trained on its images reach."""
    sites = {site: data / site for site in SITES}
    run = out / f"run-{seed}"
    if not (run / "generator.safetensors").exists():
        recipe = planned(sites, [*CHANGES, f"training.seed={seed}"]).recipe
        asyndgan.train(recipe, sites, run, resume=(run / "run.json").exists(), threads=1)
    found = asyndgan.evaluate(
        run, sites, out / f"evaluation-{seed}", test=data / "test", seeds=2, workers=1
    )
    assert isinstance(found, Evaluation)  # the run paints images
    return found


def block(found: list[Evaluation]) -> str:
    """The tables of all labels together, and of each label."""
    first = found[0]
    labels = list(dict.fromkeys(row.label for row in first.rows))
    together = [
        [one.model, f"{one.dice:.3f}", f"{one.iou:.3f}",
         f"{one.ratio:.3f} ({one.ratio_low:.3f} to {one.ratio_high:.3f})"]
        for evaluation in found for one in evaluation.overall
        if evaluation is first or one.model == SYNTHETIC
    ]  # fmt: skip
    each = [
        [one.model, *(f"{first.row(one.model, label).dice_mean:.3f}" for label in labels)]
        for one in first.overall
    ]
    about = (
        f"Judged on {first.row(REAL_ALL, labels[0]).patients} test clips; {len(found)} training(s) "
        f"of the generator, {len(first.seeds)} segmentation networks of each set. IoU is the mean "
        "over a clip's labels, then over clips; unlabelled pixels do not count."
    )
    heading = ["trained on", "mean Dice", "mean IoU", "IoU of all-real"]
    return (
        f"{about}\n\n{markdown(heading, together)}\n\nDice of each label:\n\n"
        f"{markdown(['trained on', *labels], each)}"
    )


def main() -> None:
    """Trains what is missing, and writes the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of the generator")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = asked.data / "streets_camvid"
    found = [evaluated(data, asked.out, seed) for seed in range(asked.seeds)]
    publish(block(found), "streets", asked.document)
    if asked.document:
        told = [
            {"overall": list(map(asdict, one.overall)), "rows": list(map(asdict, one.rows))}
            for one in found
        ]
        results = Path(__file__).parents[1] / "results" / "streets.json"
        results.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
