"""nnU-Net itself as judge: its Dice after training on real, and on synthetic images.

    python -m lab.experiments.nnunet --data DATA --set NAME --run RUN --nnunet BIN --out OUT

RUN is a finished run of this set. As in an evaluation, the patients that its sites hold out judge,
and its generator paints three images of the mask of each case that the sites train on. nnU-Net
(Isensee et al. 2021) plans and trains by its own rules, in its configuration `2d` or, of volumes,
`3d_fullres`. For want of time there are few epochs of 250 updates, and `BATCH` images an update
(volumes as planned).

BIN is the `bin` folder of an environment with `nnunetv2`, since its packages pull far more than
this project's. It was tried with 2.8.1, on the CPU. A network that has predicted is not
trained again. nnU-Net draws without a seed, so two trainings differ.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from asyndgan.export.writing import write_dataset
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.compare import row_of
from asyndgan.judging.metrics import ScoreArray, score_array
from asyndgan.judging.real import load_real
from asyndgan.judging.table import REAL_ALL
from asyndgan.painting.sets import MOVED, masks_of, painting_of
from asyndgan.painting.writing import Storage
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from lab.experiments.common import arguments, markdown, publish

BATCH = 6
"""Images of an update; nnU-Net would take hundreds of such small ones."""

PLANS, SPLITS = "nnUNetPlans.json", "splits_final.json"


class Judge:
    """nnU-Net, trained on one set of cases in a folder of its own."""

    def __init__(self, programs: Path, folder: Path, run: RunFolder, epochs: int) -> None:
        self.programs, self.folder, self.run = programs, folder, run
        self.trainer = f"nnUNetTrainer_{epochs}epoch{'s' * (epochs > 1)}"
        self.stored = Storage.plain(run.recipe().image)
        self.configuration = "3d_fullres" if run.recipe().image.whole else "2d"
        self.raw = folder / "raw" / "Dataset001_cases"

    def predicted(self, cases: Iterable[Case], judged: list[Case]) -> Tensor:
        """Labels of the judged cases by a network trained on `cases`."""
        asked, told, done = self.folder / "asked", self.folder / "told", self.folder / "done"
        if not done.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self._train(cases)
            self._write(asked, judged)
            self._call(
                "predict", "-i", asked / "imagesTr", "-o", told, "-d", "1", "-c",
                self.configuration, "-f", "0", "-tr", self.trainer, "-npp", "1", "-nps", "1",
            )  # fmt: skip
            for path in told.glob(f"case-*{self.stored.ending}"):
                path.replace(asked / "labelsTr" / path.name)
            done.touch()
        found = DataSet(asked).cases(self.run.recipe().image, synthetic=True)
        return torch.stack([case.mask for case in found])

    def _train(self, cases: Iterable[Case]) -> None:
        self._write(self.raw, cases)
        self._call(
            "plan_and_preprocess", "-d", "1", "--verify_dataset_integrity",
            "-c", self.configuration, "-np", "1", "-npfp", "1",
        )  # fmt: skip
        made = self.folder / "preprocessed" / self.raw.name
        plans = json.loads((made / PLANS).read_text())
        if self.configuration == "2d":
            plans["configurations"]["2d"]["batch_size"] = BATCH
        (made / PLANS).write_text(json.dumps(plans))
        # All cases train. nnU-Net validates after each epoch, on one of them, and chooses nothing.
        names = sorted(path.name.split(".")[0] for path in (self.raw / "labelsTr").iterdir())
        (made / SPLITS).write_text(json.dumps([{"train": names, "val": names[:1]}]))
        self._call("train", "1", self.configuration, "0", "-tr", self.trainer)

    def _write(self, folder: Path, cases: Iterable[Case]) -> None:
        facts = self.run.facts()
        numbered = (replace(case, name=f"case-{n:05d}") for n, case in enumerate(cases))
        write_dataset(
            folder,
            map(self.stored.raw, numbered),
            file_ending=self.stored.ending,
            modalities=facts.modalities,
            labels={name: int(number) for number, name in facts.labels.items()},
            name=folder.name,
        )

    def _call(self, program: str, *options: object) -> None:
        parts = ("raw", "preprocessed", "results")
        own = {f"nnUNet_{part}": str(self.folder / part) for part in parts}
        own |= {"nnUNet_compile": "f", "OMP_WAIT_POLICY": "passive"}  # it takes all processors
        device: tuple[str, ...] = ()
        if program != "plan_and_preprocess":  # which has no device, and wants a process to augment
            device, own["nnUNet_n_proc_DA"] = ("-device", "cpu"), "0"
        command = [self.programs / f"nnUNetv2_{program}", *options, *device]
        with (self.folder / f"{program}.log").open("wb") as log:
            subprocess.run(
                list(map(str, command)), env=os.environ | own, check=True, stdout=log, stderr=log
            )


def main() -> None:
    """Trains what is missing, and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--set", required=True, help="folder of the set in DATA")
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder of nnU-Net's programs")
    parser.add_argument("--epochs", type=int, default=5, choices=(1, 5, 10, 20, 50, 100))
    asked = parser.parse_args()
    run = RunFolder(asked.run)
    recipe, facts = run.recipe(), run.facts()
    sites = {site: DataSet(asked.data / asked.set / site) for site in facts.teachers}
    real, held = load_real(sites, None, recipe, modalities=facts.modalities, labels=facts.labels)
    masks = masks_of(real)
    sets: dict[str, Iterable[Case]] = {  # synthetic cases are painted only to be trained on
        REAL_ALL: (case for own in real.values() for case in own),
        "synthetic": painting_of(run, masks),
    }
    counts = {REAL_ALL: len(masks), "synthetic": (1 + MOVED) * len(masks)}
    labels = {name: int(number) for number, name in facts.labels.items() if number != "0"}
    scores: dict[str, dict[str, ScoreArray]] = {}
    for name, cases in sets.items():
        # The generator's digest also says who was held out.
        of = f"{name}-{facts.generator_sha256[:8]}-{asked.epochs}-{BATCH}"
        judge = Judge(asked.nnunet, asked.out.resolve() / of, run, asked.epochs)
        found = judge.predicted(cases, held)
        scores[name] = {
            label: score_array(held, [found], number) for label, number in labels.items()
        }
    rows = []
    for label in labels:
        for name, count in counts.items():
            row = row_of(name, label, count, scores[name][label], scores[REAL_ALL][label])
            rows.append(
                [label, name, f"{count:,}", f"{row.dice_mean:.3f}",
                 f"{row.ratio:.3f}", f"{row.ratio_low:.3f} to {row.ratio_high:.3f}"]
            )  # fmt: skip
    about = (
        f"{asked.set}: {len({case.patient for case in held})} validation patients; one generator "
        f"({recipe.name}), one nnU-Net of {asked.epochs} epochs each; interval of 95 % from a BCa "
        "bootstrap over patients."
    )
    heading = ["label", "trained on", "cases", "Dice", "of all-real", "interval"]
    publish(f"{about}\n\n{markdown(heading, rows)}", f"nnunet-{asked.set}", asked.document)


if __name__ == "__main__":
    main()
