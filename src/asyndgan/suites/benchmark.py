"""Runs a suite: trains the missing models, evaluates them and collects the tables."""

import hashlib
import json
import math
import operator
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any, final

import monai
import numpy as np
import torch
from scipy.stats import spearmanr

from asyndgan import __version__
from asyndgan.arrays import Mask
from asyndgan.data import Case
from asyndgan.data.description import describe
from asyndgan.data.nnunet import list_cases, patient_of, read_case
from asyndgan.data.prepare import blanked, load_cases, prepare, widened
from asyndgan.data.splits import hold_out
from asyndgan.data.writing import digest_of_folder
from asyndgan.errors import RecipeError
from asyndgan.judging.bench import (
    Bench,
    Contenders,
    OnProgress,
    TrainingSet,
    digest_of_cases,
    mean,
    paired,
    paired_ratio,
    pooled,
    write_whole,
)
from asyndgan.judging.compare import HELD_OUT, compare, contenders, levelled_off
from asyndgan.judging.completion_scores import (
    ACQUIRED,
    HIDDEN,
    NOTHING,
    WITHOUT,
    Completed,
    completions,
    nearness,
    with_images,
)
from asyndgan.judging.consistency import consistency
from asyndgan.judging.distance import distances, features_of
from asyndgan.judging.fedavg import LOCAL_STEPS, weight
from asyndgan.judging.metrics import PatientScore, bootstrap_interval
from asyndgan.judging.real import load_real, shared_by_all
from asyndgan.judging.segmentation import TRAINING_VERSION, SegmentationBudget, budget_for
from asyndgan.judging.table import (
    ADDED,
    FEDAVG,
    FEDAVG_WITHOUT,
    FEDGAN,
    REAL_ALL,
    SITE_PREFIX,
    SYNTHETIC,
    Evaluation,
    of_single_sites,
)
from asyndgan.models.features import Moments, distance
from asyndgan.models.segmenters import build_segmenter
from asyndgan.painting.completion import TRANSLATION_VERSION, TranslationBudget
from asyndgan.painting.pictures import plot_completions, plot_paintings
from asyndgan.painting.sets import (
    OF_SITES,
    counterparts,
    masks_of,
    painted_once,
    painting_of,
    patients_of_masks,
)
from asyndgan.painting.synthesise import PAINTING_VERSION, Fading
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFolder
from asyndgan.suites.fedgan import networks_weight
from asyndgan.suites.result import Checkpoints, Difference, SuiteResult, Traffic
from asyndgan.suites.suite import (
    CompletionSection,
    ModelSection,
    PaintingSection,
    SetSection,
    Suite,
)
from asyndgan.suites.trainings import run_folder, train_all, trainings_of
from asyndgan.training import checkpoint

_SCORES = ("dice", "hd95", "assd")


def run_suite(
    text: str,
    data: Path,
    out: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    on_training: OnProgress | None = None,
    on_evaluation: OnProgress | None = None,
) -> SuiteResult:
    """Trains and evaluates the models of a suite; results that exist already are reused.

    Args:
        text: the suite, as TOML.
        data: folder that contains the data sets.
        out: folder for runs, evaluations, the cache and `suite.json`.
        workers: number of trainings in parallel, one core each.
        device: device of the networks.
        on_training: progress of the generators: called with a text, the steps done and all steps.
        on_evaluation: progress of the segmentation networks, likewise.

    Raises:
        RecipeError: the suite or a recipe in it is invalid.
        DataError, CohortError, RunError, NotFiniteError: as in `train` and `evaluate`.
    """
    suite = Suite.from_toml(text)
    # Loading the real cases first reports errors in them before hours of training.
    real = {part.name: Real(suite, part, data) for part in suite.sets}
    trainings = list(trainings_of(suite, data, out, device))
    train_all(trainings, workers, on_training)
    about = {one.name: one.about() for one in trainings}
    judged_on = {
        f"{part.folder}/{name}": digest_of_folder(data / part.folder / name)
        for part in suite.sets
        for name in part.unseen(suite.judged_on)
    }
    versions = {
        "asyndgan": __version__, "torch": torch.__version__, "monai": monai.__version__,
        "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip
    hashed = [
        suite.model_dump(mode="json"), about, judged_on, device, versions, PAINTING_VERSION,
        TRAINING_VERSION,
    ]  # fmt: skip
    recipes = {part.name: suite.recipe(part, suite.models[0], 0) for part in suite.sets}
    if unmirrored := [name for name, recipe in recipes.items() if not recipe.training.flip]:
        hashed.append(unmirrored)  # once they were judged by networks that saw mirrored images
    if any(part.completion for part in suite.sets):
        hashed.append(TRANSLATION_VERSION)
    result = SuiteResult(
        suite=suite.name,
        judged_on=suite.judged_on,
        seeds=suite.seeds,
        segmentation_seeds=suite.segmentation_seeds,
        versions=versions,
        digest=hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest(),
        device=device,
        test_sets=judged_on,
        trainings=about,
    )  # fmt: skip
    for part in suite.sets:
        evaluations: dict[str, Evaluation] = {}
        for model in suite.models:
            judging = _Judging(suite, real[part.name], model, out, workers, device, on_evaluation)
            evaluations[model.name] = judging.add_to(result)
        against = {model.name: model.against for model in suite.models if model.against}
        judged = real[part.name].judged
        result.differences.extend(_between_recipes(part, evaluations, judged, against))
    write_whole(out / "suite.json", json.dumps(result.to_tables(), indent=1).encode())
    return result


@final
class Real:
    """The real cases of one set, with the labels and modalities that they share.

    Attributes:
        part: the set's section of the suite.
        labels: value of each label by name, over all sites.
        modalities: modalities that all sites and the test set hold.
        sites: training cases of each site.
        judged: cases of the test or validation patients.
        incomplete: cases for completion, with the acquired modality included.
    """

    def __init__(self, suite: Suite, part: SetSection, data: Path) -> None:
        self.part = part
        recipe = suite.recipe(part, suite.models[0], 0)
        folders = {name: data / part.folder / name for name in part.sites}
        test = None if suite.judged_on == "validation" else data / part.folder / part.test
        every = [*folders.values(), *([test] if test else [])]
        self.labels = {
            name: value for folder in every for name, value in describe(folder).labels.items()
        }
        fading = Fading.of(part.faded, self.labels)
        for name in (part.label, *part.further_labels):
            if not self.labels.get(name):
                judged = (known for known, value in self.labels.items() if value)
                raise RecipeError(
                    f"set {part.name}: there is no label '{name}' to be judged by; there are "
                    f"{', '.join(judged)}."
                )
        if test:
            _check_apart(part, test)
        held = recipe.image.modalities or describe(every[0]).modalities
        self.modalities = shared_by_all(held, every)
        self.sites, self.judged = load_real(
            folders,
            test,
            recipe,
            modalities=self.modalities,
            labels={str(value): name for name, value in self.labels.items()},
            patient_pattern=part.patient_pattern,
        )
        _check_rest(part, fading, [case.mask for own in self.sites.values() for case in own])
        if suite.check_budget:
            hold_out(self.sites, part=HELD_OUT, seed=0)  # raises now if no site has two patients
        self.incomplete: list[Case] = []
        if part.completion:
            self.incomplete = _with_truth(part, data, recipe.image, self.modalities)
            unseen = {case.patient for case in self.incomplete}
            if unseen & {case.patient for own in self.sites.values() for case in own}:
                raise RecipeError(
                    f"set {part.name}: a patient of {part.completion.folder} is at a site as well."
                )


def _check_rest(part: SetSection, fading: Fading, masks: Sequence[Mask]) -> None:
    """Refuses fading where no generator learns what an image without the labels looks like."""
    if not fading.labels:
        return
    keep = torch.tensor([0, *fading.labels])
    alone = sum(bool(torch.isin(mask, keep).all()) for mask in masks)
    if 2 * alone > len(masks) and all(mask.any() for mask in masks):
        raise RecipeError(
            f"set {part.name}: most masks hold nothing but {' and '.join(part.faded)}, and none is "
            "empty, so no generator learns what an image without them looks like. Leave out faded."
        )


def _with_truth(
    part: SetSection, data: Path, image: ImageSection, modalities: Sequence[str]
) -> list[Case]:
    """Cases whose data set lacks a modality, with the acquired images of it added."""
    section = part.completion
    if section is None:
        return []
    folder = data / part.folder / section.folder
    info = describe(folder)
    truth = folder / section.truth
    if not truth.is_dir():
        raise RecipeError(
            f"set {part.name}: there is no folder {truth} with the real {section.modality} of the "
            "cases to complete. Name the one that there is in completion.truth."
        )
    cases = []
    for files in list_cases(folder, info):
        wanted = re.compile(re.escape(files.name) + r"_\d{4}" + re.escape(info.file_ending))
        found = [p for p in truth.iterdir() if wanted.fullmatch(p.name)]
        if len(found) != 1:
            raise RecipeError(
                f"set {part.name}: there is no truth of case {files.name}, or more than one file."
            )
        both = replace(info, modalities=(*info.modalities, section.modality))
        whole = replace(files, images={**files.images, len(info.modalities): found[0]})
        read = read_case(whole, both, axis=image.axis, patient_pattern=part.patient_pattern)
        cases += [prepare(raw, image, modalities) for raw in read]
    return cases


def _check_apart(part: SetSection, test: Path) -> None:
    cases = list_cases(test, describe(test))
    names = [patient_of(files.name, part.patient_pattern) for files in cases]
    for pattern in part.apart.values():
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise RecipeError(
                f"set {part.name}: '{pattern}' is not a regular expression ({error})."
            ) from error
        if not found:
            raise RecipeError(f"set {part.name}: no test patient's name matches '{pattern}'.")


@final
class _Judging:
    """Evaluates one recipe on one set and adds the results to the suite's tables.

    Args:
        suite: the suite.
        real: the set's real cases.
        model: model whose generators are evaluated.
        out: output folder of the suite.
        workers: number of networks to train in parallel.
        device: device to train on.
        on_progress: called with the progress of the segmentation networks.
    """

    def __init__(
        self,
        suite: Suite,
        real: Real,
        model: ModelSection,
        out: Path,
        workers: int,
        device: str,
        on_progress: OnProgress | None,
    ) -> None:
        self.suite = suite
        self.real = real
        self.part = real.part
        self.model = model
        self.out = out
        self.workers = workers
        self.device = device
        self.on_progress = on_progress
        kinds = {SYNTHETIC: False} | ({FEDGAN: True} if model.fedgan else {})
        self.runs = {
            name: [
                RunFolder(run_folder(out, real.part, model, seed, fedgan=fedgan))
                for seed in range(suite.seeds)
            ]
            for name, fedgan in kinds.items()
        }
        self.about = {"set": real.part.name, "recipe": model.name}

    def add_to(self, result: SuiteResult) -> Evaluation:
        """Trains the missing segmentation networks and adds rows to every table.

        Returns:
            The comparison of the recipe's synthetic cases with the other training sets.
        """
        painted = {
            name: [self._painted(run, PaintingSection()) for run in runs]
            for name, runs in self.runs.items()
        }
        models = contenders(
            self.real.sites,
            painted,
            seeds=self.suite.seeds,
            fedavg=int(self.suite.fedavg),
            augmented=self.model.augmented,
        )
        if self.suite.fedavg and self.model.without:
            models = {**models, FEDAVG_WITHOUT: [self._without()]}
        if not self.suite.single_sites:
            models = {name: sets for name, sets in models.items() if not of_single_sites(name)}
        evaluation = self._compare(models)
        self._add_rows(result, evaluation)
        self._add_distances(result)
        if self.suite.consistency:
            self._add_consistency(result, painted[SYNTHETIC])
        result.differences.extend(_differences(self.part, self.model, evaluation))
        result.traffic.append(_traffic(self.part, self.model, self.runs[SYNTHETIC]))
        self._add_pictures(result, painted)
        if self.model.completion:
            self._add_completions(result, models[REAL_ALL][0])
        if self.suite.check_budget:
            self._add_levelling(result)
        if self.model.checkpoints:
            result.checkpoints.append(self._judge_checkpoints(self.runs[SYNTHETIC][0]))
        self._add_networks(result, {name: models[name] for name in (REAL_ALL, SYNTHETIC)})
        if self.model.paintings:
            self._add_paintings(result, models[REAL_ALL], evaluation)
        return evaluation

    def _add_rows(self, result: SuiteResult, evaluation: Evaluation) -> None:
        """Adds rows; those of real models only if no earlier recipe added them."""
        known = {(row["set"], row["model"]) for row in result.rows if not row["recipe"]}
        about = {
            name: self.about | {"recipe": self._recipe_of(name)}
            for name in evaluation.per_patient
            if self._recipe_of(name) or (self.part.name, name) not in known
        }
        result.evaluations[f"{self.part.name}, {self.model.name}"] = self._place()
        result.rows.extend(
            {**about[row.model], **asdict(row), **self._cost(row.model)}
            for row in evaluation.rows
            if row.model in about
        )
        result.apart.extend(
            {**about[row["model"]], **row}
            for row in _apart(self.part, evaluation, self.real.judged)
            if row["model"] in about
        )

    def _recipe_of(self, model: str) -> str:
        painted = model in (SYNTHETIC, FEDGAN, FEDAVG_WITHOUT) or model.endswith(ADDED)
        return self.model.name if painted else ""

    def _cost(self, model: str) -> dict[str, float | None]:
        """Seconds and bytes of generators, or bytes of FedAvg's rounds; None for other models."""
        facts = [run.facts() for run in self.runs.get(model, [])]
        if facts:
            moved = [_of_a_site(run.left_sites) + _of_a_site(run.came_to_sites) for run in facts]
            return {"seconds": mean([run.seconds for run in facts]), "bytes": mean(moved)}
        if model in (FEDAVG, FEDAVG_WITHOUT):
            image = self.real.judged[0].image
            with torch.device("meta"):
                budget = self._budget()
                network = build_segmenter(
                    len(image), max(self.real.labels.values()) + 1, network=budget.network,
                    width=budget.width, space=tuple(image.shape[1:]),
                )  # fmt: skip
            rounds = math.ceil(budget.steps / LOCAL_STEPS)
            return {"seconds": None, "bytes": float(2 * rounds * weight(network))}
        return {"seconds": None, "bytes": None}

    def _add_distances(self, result: SuiteResult) -> None:
        owners = list(patients_of_masks(self.real.sites).values())
        for name, runs in self.runs.items():
            measured = [
                asdict(distances(self._alike(run), owners, self.real.sites)) for run in runs
            ]
            result.distances.append({**self.about, "model": name, **_mean_of(measured)})

    def _alike(self, run: RunFolder) -> list[Case]:
        fading = self._fading(PaintingSection())
        return self._shared(counterparts(run, self.real.sites, fading))

    def _shared(self, cases: Sequence[Case]) -> list[Case]:
        """Painted cases without the modalities that are not judged."""
        return [widened(case, self.real.modalities) for case in cases]

    def _add_consistency(self, result: SuiteResult, painted: Sequence[Sequence[Case]]) -> None:
        of_seeds = [consistency(cases, self.real.judged, self.real.labels) for cases in painted]
        for same in zip(*of_seeds, strict=True):
            first, *_ = tables = [asdict(one) for one in same]
            numbers = [{k: v for k, v in one.items() if isinstance(v, float)} for one in tables]
            result.consistency.append({**self.about, **first, **_mean_of(numbers)})

    def _add_completions(self, result: SuiteResult, real_all: TrainingSet) -> None:
        section = self.part.completion
        if section is None:
            return
        runs, judged, lacking = self.runs[SYNTHETIC], self.real.incomplete, [section.modality]
        of_seeds = [self._completed(run, seed, section) for seed, run in enumerate(runs)]
        together = {way: [image for own in of_seeds for image in own[way]] for way in of_seeds[0]}
        near = nearness(together, judged * len(runs), lacking, best="translated")
        dice = self._segmented(of_seeds, lacking, real_all)
        scored = {row.way: asdict(row) for row in near}
        for way in dict.fromkeys([*scored, *dice]):
            result.completions.append(
                {**self.about, "modality": section.modality, "way": way,
                 **scored.get(way, {}), **dice.get(way, {})}
            )  # fmt: skip
        plot_completions(
            of_seeds[0], judged, section.modality, self.real.labels[self.part.label],
            self.out / self._place() / "completion.png",
        )  # fmt: skip

    def _completed(self, run: RunFolder, seed: int, section: CompletionSection) -> Completed:
        """Completions by one generator; kept, since a translator is trained for them."""
        judged, budget = self.real.incomplete, TranslationBudget(steps=section.steps)
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
            "device": torch.device(self.device).type,
            "versions": [TRANSLATION_VERSION, PAINTING_VERSION, TRAINING_VERSION],
            "libraries": [torch.__version__, monai.__version__, np.__version__],
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        path = self.out / "cache" / f"completed-{key[:32]}.safetensors"
        if not path.exists():
            found = completions(
                run, self.real.sites, judged, [section.modality], seed=seed, budget=budget,
                masks=masks_of(self.real.sites), device=self.device,
                on_progress=lambda done: self._tell("translator", done, section.steps),
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
        count, by_way = len(dice) // len(shown), defaultdict(list)
        for place, (way, _) in enumerate(shown):
            by_way[way].append(dice[place * count : (place + 1) * count])
        parts = {
            way: [mean(own) for own in zip(*each, strict=True)] for way, each in by_way.items()
        }
        without = [blanked(case, lacking) for case in pooled(real_all)]
        parts[WITHOUT] = self._dice_of(judged, without)
        return {
            way: _interval("dice", own)
            | _interval("gain", [a - b for a, b in zip(own, parts[WITHOUT], strict=True)])
            | _interval("filled", [a - b for a, b in zip(own, parts[NOTHING], strict=True)])
            for way, own in parts.items()
        }

    def _dice_of(self, judged: Sequence[Case], cases: TrainingSet) -> list[float]:
        seeds = range(self.suite.segmentation_seeds)
        bench = Bench(
            judged, self.real.labels, [self.part.label], seeds, self.out / "cache",
            len(seeds) * self._budget().steps, self.device, self.on_progress, self.workers,
        )  # fmt: skip
        found = bench.scores({REAL_ALL: [cases] * len(seeds)}, self._budget())
        return _dice(found.scores[REAL_ALL][self.part.label])

    def _tell(self, text: str, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress(text, done, total)

    def _without(self) -> dict[str, list[Case]]:
        """Real cases of each site, without the modalities excluded from the recipe's training."""
        return {
            site: [blanked(case, self.model.without.get(site, ())) for case in cases]
            for site, cases in self.real.sites.items()
        }

    def _add_pictures(
        self, result: SuiteResult, painted: Mapping[str, Sequence[Sequence[Case]]]
    ) -> None:
        """Adds pictures of moved masks and their paintings, if the recipe releases masks."""
        for name, of_seeds in painted.items():
            if not self.runs[name][0].recipe().masks.release:
                continue
            path = Path(self._place()) / f"{name}.png"
            shown = [case for case in of_seeds[0] if case.name.endswith("_d0")]
            title = f"{self.model.name} on {self.part.name}"
            (self.out / path).write_bytes(
                plot_paintings(shown, self.real.labels[self.part.label], title=title)
            )
            result.pictures[f"{self.part.name}, {self.model.name}: {name}"] = str(path)

    def _add_levelling(self, result: SuiteResult) -> None:
        if any(row["set"] == self.part.name for row in result.levelling):
            return  # it concerns the real cases, which all models share
        levelling = levelled_off(
            sites=self.real.sites, labels=self.real.labels, targets=self._targets,
            seeds=self._seeds, budget=self._budget(), cache=self.out / "cache",
            workers=self.workers, device=self.device,
            on_progress=self.on_progress,
        )  # fmt: skip
        result.levelling.extend({"set": self.part.name, **asdict(one)} for one in levelling)

    def _add_networks(self, result: SuiteResult, pair: Contenders) -> None:
        for network in self.suite.networks:
            rows = self._compare(pair, network=network, ending=network).rows
            result.networks.extend(
                {**self.about, "network": network, **asdict(row)}
                for row in rows
                if row.label == self.part.label
            )

    def _add_paintings(
        self, result: SuiteResult, real_all: Sequence[Any], evaluation: Evaluation
    ) -> None:
        """Adds a row for the default synthetic set, then one for each further synthetic set."""
        own = asdict(evaluation.row(SYNTHETIC, self.part.label))
        result.paintings.append({**self._about_painting(PaintingSection()), **own})
        for painting in self.model.paintings:
            cases = [self._painted(run, painting) for run in self.runs[SYNTHETIC]]
            other = self._compare(
                {REAL_ALL: real_all, SYNTHETIC: cases}, ending=painting.ending(self.part)
            )
            row = other.row(SYNTHETIC, self.part.label)
            result.paintings.append({**self._about_painting(painting), **asdict(row)})

    def _judge_checkpoints(self, run: RunFolder) -> Checkpoints:
        masks, every = masks_of(self.real.sites), run.recipe().training.checkpoint_every
        kept = checkpoint.stored_steps(run.generators)
        # Leaves out checkpoints that were written at an interruption.
        steps = [step for step in kept if step % every == 0 or step == run.facts().steps]
        features = {site: features_of(cases) for site, cases in self.real.sites.items()}
        together = torch.cat(list(features.values()))
        clip = run.recipe().selection.clip or float(together.double().norm(dim=1).median())
        reference = reduce(operator.add, [Moments.of(own, clip=clip) for own in features.values()])
        told = {record["step"] + 1: record.get("distance") for record in run.metrics()}
        exact, clipped = [], []
        models: dict[str, list[Sequence[Case]]] = {
            REAL_ALL: [pooled(self.real.sites)] * self.suite.seeds
        }
        for step in steps:
            fading = self._fading(PaintingSection())
            cases = self._shared(painting_of(run, masks, step=step, fading=fading))
            models[f"step {step}"] = [cases] * self.suite.seeds
            found = features_of(cases)
            exact.append(distance(Moments.of(found), Moments.of(together)))
            clipped.append(distance(Moments.of(found, clip=clip), reference))
        evaluation = self._compare(models, ending="checkpoints")
        dice = [evaluation.row(f"step {step}", self.part.label).dice_mean for step in steps]
        late = len(steps) // 3  # early checkpoints differ so much that any measure ranks them
        pairs = {
            "pooled and Dice": (exact, [-one for one in dice]),
            "clipped and Dice": (clipped, [-one for one in dice]),
            "clipped and pooled": (clipped, exact),
        }
        chosen_by = [told.get(step) for step in steps]
        known = [one for one in chosen_by if one is not None]
        if len(known) == len(steps):
            pairs["the coordinator's and Dice"] = (known, [-one for one in dice])
        correlations = {
            f"{name}{words}": float(spearmanr(first[start:], second[start:]).statistic)
            for words, start in (("", 0), (f", from step {steps[late]} on", late))
            for name, (first, second) in pairs.items()
        }
        return Checkpoints(
            self.part.name, self.model.name, clip, steps, exact, clipped, chosen_by, dice,
            correlations,
        )  # fmt: skip

    def _painted(self, run: RunFolder, painting: PaintingSection) -> list[Case]:
        """Paints from the sites' own masks, since a baseline has no released ones."""
        folder = painted_once(
            run, masks_of(self.real.sites), OF_SITES, run.path / painting.folder(self.part),
            moved=painting.images - 1, fading=self._fading(painting),
        )  # fmt: skip
        return load_cases(folder, run.recipe().image, self.real.modalities, synthetic=True)

    def _fading(self, painting: PaintingSection) -> Fading:
        fading = Fading.of(painting.faded(self.part), self.real.labels)
        return replace(fading, contrasts=painting.contrasts)

    def _about_painting(self, painting: PaintingSection) -> dict[str, Any]:
        fading = self._fading(painting)
        return {
            **self.about, **painting.model_dump(), "faded": painting.faded(self.part),
            "contrasts": fading.contrasts if fading.labels else (),
        }  # fmt: skip

    @property
    def _targets(self) -> list[str]:
        return [self.part.label, *self.part.further_labels]

    @property
    def _seeds(self) -> range:
        return range(self.suite.seeds * self.suite.segmentation_seeds)

    def _budget(self, network: str = "unet") -> SegmentationBudget:
        steps = self.part.segmentation_steps or self.suite.segmentation_steps
        recipe = self.runs[SYNTHETIC][0].recipe()
        return budget_for(recipe, SegmentationBudget(network=network, steps=steps))

    def _place(self, ending: str = "main") -> str:
        return f"evaluations/{self.part.name}/{self.model.name}/{ending}"

    def _compare(
        self, models: Contenders, *, network: str = "unet", ending: str = "main"
    ) -> Evaluation:
        repeats = self.suite.segmentation_seeds
        return compare(
            {name: [one for one in sets for _ in range(repeats)] for name, sets in models.items()},
            test=self.real.judged,
            labels=self.real.labels,
            out=self.out / self._place(ending),
            cache=self.out / "cache",
            targets=self._targets,
            seeds=self._seeds,
            budget=self._budget(network),
            judged_on=self.suite.judged_on,
            about=self.about,
            workers=self.workers,
            device=self.device,
            on_progress=self.on_progress,
        )


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    counted = [value for value in values if not math.isnan(value)]
    low, high = bootstrap_interval(counted)
    return {name: mean(counted), f"{name}_low": low, f"{name}_high": high}


def _traffic(part: SetSection, model: ModelSection, runs: Sequence[RunFolder]) -> Traffic:
    recipe, facts = runs[0].recipe(), [run.facts() for run in runs]
    generator, discriminator = networks_weight(recipe, facts[0].scope)
    taken = [Counter(site for one in run.metrics() for site in one["losses"]) for run in runs]
    sent, received = (
        mean([_a_step(moved, steps) for moved, steps in zip(of_runs, taken, strict=True)])
        for of_runs in ([one.left_sites for one in facts], [one.came_to_sites for one in facts])
    )
    fedgan_round = 2 * (generator + discriminator)
    return Traffic(
        part.name, model.name, facts[0].steps, sent, received, generator, discriminator,
        fedgan_round, fedgan_round / (sent + received),
    )  # fmt: skip


def _of_a_site(moved: Mapping[str, Mapping[str, int]]) -> float:
    """Bytes of a site in the whole run, mean over sites."""
    return mean([float(sum(kinds.values())) for kinds in moved.values()])


def _a_step(moved: Mapping[str, Mapping[str, int]], taken: Mapping[str, int]) -> float:
    """Bytes per step, mean over sites; `taken`: number of steps each site took part in."""
    return mean(
        [sum(kinds.values()) / taken[site] for site, kinds in moved.items() if taken.get(site)]
    )


def _mean_of(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Element-wise mean of nested tables with the same keys."""
    return {
        key: _mean_of([table[key] for table in tables])
        if isinstance(value, Mapping)
        else mean([table[key] for table in tables])
        for key, value in tables[0].items()
    }


def _apart(
    part: SetSection, evaluation: Evaluation, judged: Sequence[Case]
) -> Iterator[dict[str, Any]]:
    """Rows for groups of patients reported apart, such as those of a hospital that is no site."""
    for heading, chosen in _groups(part, judged).items():
        for name, scores in evaluation.per_patient.items():
            own = [scores[part.label][place] for place in chosen]
            low, high = bootstrap_interval([score.dice for score in own])
            yield {
                "apart": heading,
                "model": name,
                "label": part.label,
                "patients": sum(not math.isnan(score.dice) for score in own),
                **{key: mean([getattr(one, key) for one in own]) for key in _SCORES},
                "dice_low": low,
                "dice_high": high,
            }


def _groups(part: SetSection, judged: Sequence[Case]) -> dict[str, list[int]]:
    """Places of the patients of each group among all who are judged, in the order of scores."""
    patients = list(dict.fromkeys(case.patient for case in judged))
    patterns = part.apart
    if part.by_site:  # held-out patients are named `site/patient`
        patterns = {f"of {site}": re.escape(site) + "/.*" for site in part.sites}
    return {
        heading: [place for place, name in enumerate(patients) if re.fullmatch(pattern, name)]
        for heading, pattern in patterns.items()
    }


def _differences(
    part: SetSection, model: ModelSection, evaluation: Evaluation
) -> Iterator[Difference]:
    scores = {name: own[part.label] for name, own in evaluation.per_patient.items()}

    def difference(name: str, over: str) -> Difference:
        return _difference(part, model.name, name, over, _dice(scores[name]), _dice(scores[over]))

    if all(math.isnan(score.dice) for score in scores[SYNTHETIC]):
        return  # no patient has the label
    for over in scores:
        if over != SYNTHETIC and not over.endswith(ADDED):
            yield difference(SYNTHETIC, over)
    augmented = [name for name in scores if name.endswith(ADDED)]
    alone = [name.removesuffix(ADDED) for name in augmented]
    if augmented and all(name in scores for name in alone):
        for name, over in zip(augmented, alone, strict=True):
            yield difference(name, over)
        yield _difference(
            part,
            model.name,
            f"every {SITE_PREFIX}NAME{ADDED}",
            f"{SITE_PREFIX}NAME",
            _over_models(scores, augmented),
            _over_models(scores, alone),
        )


def _between_recipes(
    part: SetSection,
    evaluations: Mapping[str, Evaluation],
    judged: Sequence[Case],
    against: Mapping[str, str],
) -> Iterator[Difference]:
    """Differences between the synthetic cases of each recipe and those of the suite's first.

    Also those of the recipe that a model is to be compared with. Of all patients, then of each
    group that is reported apart.
    """
    scores = {
        name: _dice(evaluation.per_patient[SYNTHETIC][part.label])
        for name, evaluation in evaluations.items()
    }
    first, *others = scores
    pairs = [(name, first) for name in others] + list(against.items())
    everyone = list(range(len(scores[first])))
    for apart, chosen in {"": everyone, **_groups(part, judged)}.items():
        for name, other in dict.fromkeys(pairs):
            own, over = ([scores[one][place] for place in chosen] for one in (name, other))
            found = _difference(part, name, SYNTHETIC, f"{SYNTHETIC} of {other}", own, over)
            if found.patients:  # else nobody has the label
                yield replace(found, apart=apart)


def _dice(scores: Sequence[PatientScore]) -> list[float]:
    return [score.dice for score in scores]


def _difference(
    part: SetSection,
    recipe: str,
    model: str,
    over: str,
    scores: Sequence[float],
    others: Sequence[float],
) -> Difference:
    return Difference(
        part.name, recipe, model, over, part.label,
        *paired(scores, others), *paired_ratio(scores, others),
    )  # fmt: skip


def _over_models(
    scores: Mapping[str, Sequence[PatientScore]], models: Sequence[str]
) -> list[float]:
    """Dice of each patient, averaged over models."""
    return [
        mean([score.dice for score in of_patient])
        for of_patient in zip(*(scores[name] for name in models), strict=True)
    ]
