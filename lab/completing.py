"""How near completed modalities come to acquired ones, and what segmentation gains by them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any, final

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asyndgan.arrays import IMAGE_LOW, Image
from asyndgan.judging.bench import Bench, Judged, TrainingSet, digest_of_cases, pooled
from asyndgan.judging.metrics import average
from asyndgan.judging.table import REAL_ALL
from asyndgan.models.budgets import TranslationBudget
from asyndgan.painting.pictures import STYLE, bare, well_shown
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.painting.translation import TRANSLATION_VERSION
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.store.prepare import blanked
from asyndgan.texts import stored_whole
from asyndgan.training import checkpoint
from asyndgan.training.segmentation import TRAINING_VERSION
from lab.completion_scores import (
    ACQUIRED,
    HIDDEN,
    NOTHING,
    WITHOUT,
    Completed,
    completions,
    nearness,
    with_images,
)
from lab.real import Real
from lab.scores import interval
from lab.suite import CompletionSection


@final
class Completing:
    """Completes the cases of a set that lack a modality, and judges what comes of it.

    Args:
        section: what the suite says of it.
        real: the set's real cases.
        bench: how to train; its folder is the suite's.
    """

    def __init__(self, section: CompletionSection, real: Real, bench: Bench) -> None:
        self.section = section
        self.real = real
        self.bench = bench

    def rows(
        self, runs: Sequence[RunFolder], real_all: TrainingSet, picture: Path
    ) -> Iterator[dict[str, Any]]:
        """A row for each way of completion.

        Args:
            runs: finished runs, one for each seed.
            real_all: all real cases.
            picture: PNG file to write, which shows real patients.
        """
        judged, lacking = self.real.incomplete, [self.section.modality]
        of_seeds = [self._completed(run, seed) for seed, run in enumerate(runs)]
        together = {way: [image for own in of_seeds for image in own[way]] for way in of_seeds[0]}
        near = nearness(together, judged * len(runs), lacking, best="translated")
        rows = {row["way"]: row for row in near}
        for way, dice in self._segmented(of_seeds, lacking, real_all).items():
            rows[way] = rows.get(way, {"way": way}) | dice
        yield from ({"modality": self.section.modality, **row} for row in rows.values())
        label = self.real.labels[self.real.part.label]
        plot_completions(of_seeds[0], judged, self.section.modality, label, picture)

    def _completed(self, run: RunFolder, seed: int) -> Completed:
        """Completions by one generator; kept, since a translator is trained for them."""
        section, judged = self.section, self.real.incomplete
        budget = TranslationBudget(steps=section.steps)
        real = pooled(self.real.sites)
        inputs = {
            "run": run.facts().run,
            "generator": run.facts().generator_sha256,
            "real": digest_of_cases(real, with_masks=True),
            "judged": digest_of_cases(judged, with_masks=True),
            # Looks are drawn by patient.
            "names": [[case.name, case.patient] for case in (*real, *judged)],
            "modalities": [self.real.modalities, section.modality],
            "budget": asdict(budget),
            "seed": seed,
            "device": torch.device(self.bench.device).type,
            "versions": [TRANSLATION_VERSION, PAINTING_VERSION, TRAINING_VERSION],
            "libraries": [torch.__version__, version("monai"), np.__version__],
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        path = self.bench.out / "cache" / f"completed-{key[:32]}.safetensors"
        if not path.exists():
            found = completions(
                run, self.real.sites, judged, [section.modality], seed=seed, budget=budget,
                device=self.bench.device, on_progress=lambda done: self._tell(done, section.steps),
            )  # fmt: skip
            stacked = {way: torch.stack(list(images)) for way, images in found.items()}
            checkpoint.write(path, stacked, {"inputs": inputs, "ways": list(found)})
        tensors, about = checkpoint.read(path)
        return {way: list(tensors[way]) for way in about["ways"]}

    def _segmented(
        self, of_seeds: Sequence[Completed], lacking: Sequence[str], real_all: TrainingSet
    ) -> dict[str, dict[str, float]]:
        """Dice of a network trained on all real cases, on the completed cases: means over seeds.

        Only ways of completion that do not use the mask are scored, since the mask is what the
        network has to find. For comparison, a network trained without the modality is scored too:
        a site that lacks the modality could train that one.
        """
        judged = self.real.incomplete
        shown = [
            (NOTHING, [blanked(case, lacking) for case in judged]),
            *(
                (way, with_images(judged, images))
                for completed in of_seeds
                for way, images in completed.items()
                if way.endswith(HIDDEN)
            ),
            (ACQUIRED, judged),
        ]
        every = [
            replace(case, patient=f"{place}/{case.patient}", absent=())
            for place, (_, cases) in enumerate(shown)
            for case in cases
        ]
        dice = self._dice_of(every, real_all)
        by_way = defaultdict(list)
        for (way, _), own in zip(shown, np.split(dice, len(shown)), strict=True):
            by_way[way].append(own)
        parts = {way: average(np.array(each)) for way, each in by_way.items()}
        without = [blanked(case, lacking) for case in pooled(real_all)]
        parts[WITHOUT] = self._dice_of(judged, without)
        return {
            way: interval("dice", own)
            | interval("gain", own - parts[WITHOUT])
            | interval("filled", own - parts[NOTHING])
            for way, own in parts.items()
        }

    def _dice_of(self, judged: Sequence[Case], cases: TrainingSet) -> NDArray[np.float64]:
        label = self.real.part.label
        found = self.bench.scores(
            {REAL_ALL: [cases] * len(self.bench.seeds)}, Judged(judged, self.real.labels, [label])
        )
        return average(found.scores[REAL_ALL][label])[:, 0]

    def _tell(self, done: int, total: int) -> None:
        if self.bench.on_progress:
            self.bench.on_progress("translator", done, total)


def plot_completions(
    completed: Mapping[str, Sequence[Image]],
    judged: Sequence[Case],
    modality: str,
    label: int,
    path: Path,
) -> None:
    """Plots the present modalities, the acquired one, and what each way completed it with.

    All pictures of a case have one scale of brightness, that of its acquired images. The figure
    shows real patients.

    Args:
        completed: images with all modalities, one for each case, by way of completion.
        judged: the cases with the acquired modality.
        modality: modality that was completed.
        label: value of the label; cases are evenly spaced among those with a large region of it.
        path: PNG file to write.
    """
    places = well_shown(judged, label)
    count = len(places)
    names = judged[0].modalities
    own = names.index(modality)
    lines = {name: [judged[place].image[n] for place in places] for n, name in enumerate(names)}
    lines[f"{modality}, acquired"] = lines.pop(modality)
    lines |= {
        f"{modality}, {way}": [images[p][own] for p in places] for way, images in completed.items()
    }
    with rc_context(STYLE):
        size = (1.3 * count + 1.4, 1.3 * len(lines) + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(lines), count, squeeze=False)
        brightest = [float(judged[place].image.quantile(0.995)) for place in places]
        for panels, (name, pictures) in zip(grid, lines.items(), strict=True):
            for panel, picture, high in zip(panels, pictures, brightest, strict=True):
                panel.imshow(picture.numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=high)
            about = fill(name, width=16, break_long_words=False)
            panels[0].set_ylabel(about, rotation=0, ha="right", va="center")
        bare(grid)
        path.parent.mkdir(parents=True, exist_ok=True)
        with stored_whole(path) as half:
            figure.savefig(half, format="png", dpi=110)
