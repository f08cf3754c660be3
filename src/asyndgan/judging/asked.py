"""Models of a run's synthetic set alone: the coordinator of a federation trains them, sites judge.

A model travels as safetensors with the name of its architecture; a site builds it and checks that
the weights fit. Images have a segmentation network, records a logistic regression of each class.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from asyndgan.arrays import Mask
from asyndgan.errors import DataError, ProtocolError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.bench import Bench, Judged, write_whole
from asyndgan.judging.metrics import average, bootstrap_interval, known, mean
from asyndgan.judging.of_run import check_judged, real_of_run
from asyndgan.judging.records import aucs_of, numbers_of, samples_of, split_sites
from asyndgan.judging.table import read_result
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.models.parts import usable_device
from asyndgan.models.segmenters import build_segmenter
from asyndgan.painting.fading import AS_PAINTED, Fading, fading_of
from asyndgan.painting.records import make_records, schema_of_run
from asyndgan.painting.sets import painted_once
from asyndgan.painting.synthesise import PAINTING_VERSION, chosen_masks, masks_digest
from asyndgan.runs import RunFolder
from asyndgan.runs.facts import Count, Hex
from asyndgan.runs.sites import RunSites, changed_sites
from asyndgan.tables.schema import Schema, refuse_for_images
from asyndgan.training import checkpoint
from asyndgan.training.segmentation import budget_for, predict, train_segmenter
from asyndgan.wire.audited import EvaluationFigures, ScoreFigures
from asyndgan.wire.messages import Evaluate, Evaluated

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_FILE: Final = "evaluation.json"  # in the run's folder of a site's answers
NAME: Final = "network"  # of its tensors in a file
MOST_CLASSES: Final = 1024
SLACK: Final = 2**20  # bytes of a file beyond its tensors

Group = tuple[str, ...]
"""Modalities that a model sees."""


@final
@dataclass(frozen=True)
class SiteEvaluation:
    """What a site answered."""

    generator_sha256: Hex  # of the run's generator
    set_sha256: Hex  # digest of what the set was painted from, and how (`set_digest`)
    steps: Count  # of the network's training; 0 for records
    scores: list[ScoreFigures]  # of each label or class
    asked: Annotated[float, Field(ge=0, le=1e11)] = 0.0  # when sites were, in seconds since 1970

    def __str__(self) -> str:
        after = f", after {self.steps:,} training steps" if self.steps else ""
        return ", ".join(map(_said, self.scores)) + after


_KEPT: Final = TypeAdapter(SiteEvaluation)


def _said(one: ScoreFigures) -> str:
    interval = "" if one.low is None else f"{one.low:.2f} to {one.high:.2f}, "
    score = "none" if one.score is None else f"{one.score:.2f}"
    return f"{one.name} {score} ({interval}n = {one.patients})"


def read_evaluation(folder: Path) -> SiteEvaluation:
    """Reads a site's answer; raises `RunError` if there is none that can be read."""
    what, command = "evaluation of a site", "asyndgan federation evaluate"
    return read_result(folder / EVALUATION_FILE, _KEPT, what, command)


def site_evaluations(run: RunFolder) -> dict[str, SiteEvaluation]:
    """Answers of sites of a federation on this run's generator, by site; may raise `RunError`."""
    folders = sorted(file.parent for file in run.path.glob(f"audits/*/{EVALUATION_FILE}"))
    found = {folder.name: read_evaluation(folder) for folder in folders}
    generator = run.facts().generator_sha256
    return {site: one for site, one in found.items() if one.generator_sha256 == generator}


def newest_evaluations(run: RunFolder) -> tuple[dict[str, SiteEvaluation], int]:
    """Answers of sites on the model that was asked about last, and how many are on earlier ones."""
    found = site_evaluations(run)
    newest = max(found.values(), key=lambda one: one.asked, default=None)
    same = {
        site: one
        for site, one in found.items()
        if newest and (one.set_sha256, one.steps) == (newest.set_sha256, newest.steps)
    }
    return same, len(found) - len(same)


def evaluated_at_sites(run: RunFolder, digest: str) -> str:
    """The scores at the sites of a set with this digest, for its model card; empty: none."""
    found = site_evaluations(run).items()
    return "; ".join(f"{site}: {one}" for site, one in found if one.set_sha256 == digest)


# The coordinator


def train_models(
    run: RunFolder, groups: Collection[Group], bench: Bench, masks: Path | None, fade: Sequence[str]
) -> tuple[SiteEvaluation, dict[Group, dict[str, Any]]]:
    """Trains a model for each group of modalities; paints the set into the bench's folder.

    Returns:
        What is told of the models, without scores yet, and for each group the fields of `Evaluate`.

    Raises:
        RunError: the run has no masks to paint from, or options of images are given for records.
        DataError, NotFiniteError: as `train_segmenter`.
    """
    budget, generator = bench.budget, run.facts().generator_sha256
    if run.recipe().table:
        usual = SegmentationBudget()
        chosen = {"steps": budget.steps != usual.steps, "network": budget.network != usual.network}
        refuse_for_images({"masks": masks, "fade": fade, **chosen})
        model = {"network": "regression", "width": 1, "weights": weights_of(_regression(run))}
        about = SiteEvaluation(generator, set_digest(run), 0, [], time.time())
        return about, dict.fromkeys(groups, model)
    fading, (named, origin) = fading_of(run, fade), chosen_masks(run, masks)
    painted = painted_once(
        run, named, origin, bench.out / "synthetic", fading=fading, watch=bench.on_progress
    )
    models = {
        group: {
            "network": budget.network, "width": budget.width,
            "weights": weights_of(_segmenter(run, painted, group, bench)),
        }
        for group in groups
    }  # fmt: skip
    digest = set_digest(run, named, fading)
    return SiteEvaluation(generator, digest, budget.steps, [], time.time()), models


def set_digest(
    run: RunFolder, masks: Sequence[tuple[str, Mask]] = (), fading: Fading = AS_PAINTED
) -> str:
    """SHA-256 of a set's generator, masks, fading and version of the painting, in hexadecimal."""
    parts = [run.generator_digest(), masks_digest(masks), fading.told(), PAINTING_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keep_evaluation(
    run: RunFolder, about: SiteEvaluation, site: str, answer: object, folder: Path
) -> SiteEvaluation:
    """Writes a site's answer to a folder; raises `ValueError` if it is none to such a question."""
    if not isinstance(answer, Evaluated):
        raise ValueError("it is no evaluation")
    names = [one.name for one in answer.found.scores]
    if len({*names}) < len(names) or {*names} - {*run.facts().labels.values()}:
        raise ValueError(f"{site} judges labels that the run has not")
    found = replace(about, scores=answer.found.scores)
    content = json.dumps(_KEPT.dump_python(found, mode="json"), indent=1)
    write_whole(folder / EVALUATION_FILE, content.encode())
    return found


def _segmenter(run: RunFolder, painted: DataSet, group: Group, bench: Bench) -> nn.Module:
    recipe, tell = run.recipe(), bench.on_progress
    budget, text = budget_for(recipe, bench.budget), f"train a network of {', '.join(group)}"
    return train_segmenter(
        painted.cases(recipe.image, group, unmasked=False, synthetic=True),
        classes=_classes(run), budget=budget, seed=bench.seeds[0],
        device=str(usable_device(bench.device)),
        on_progress=tell and (lambda step, _: tell(text, step, budget.steps)),
    )  # fmt: skip


@torch.no_grad()
def _regression(run: RunFolder) -> nn.Module:
    """A logistic regression of each class against the others, whose order alone counts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    records, schema = make_records(run), Schema.model_validate(schema_of_run(run))
    inputs, classes = _marked(records, schema), _judged_classes(schema)
    model, scaler = _linear(inputs, classes), StandardScaler().fit(inputs)
    for row, name in enumerate(classes):
        truth = (records[schema.target] == name).to_numpy()
        if 0 < truth.sum() < len(truth):  # or the class is too rare, and all records score alike
            fitted = LogisticRegression(max_iter=2000).fit(scaler.transform(inputs), truth)
            model.weight[row] = torch.from_numpy(fitted.coef_[0] / scaler.scale_)
    return model


def _linear(inputs: Tensor, classes: Sequence[str]) -> nn.Linear:
    model = nn.Linear(inputs.shape[1], len(classes), bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return model


def _marked(records: "pd.DataFrame", schema: Schema) -> Tensor:
    """Numbers of records, 0 where one is missing, then a 1 for each that is; (n, 2 columns)."""
    numbers = torch.from_numpy(numbers_of(records, schema, one_hot=True))
    return torch.cat([numbers.nan_to_num(), numbers.isnan()], dim=1)


def weights_of(model: nn.Module) -> Tensor:
    """A model as the bytes of a safetensors file, uint8 (n,)."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / f"{NAME}.safetensors"
        checkpoint.write(file, checkpoint.network_state(NAME, model.cpu()), {})
        return torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)


def _judged_classes(schema: Schema) -> Sequence[str]:
    return schema.classes if len(schema.classes) > 2 else schema.classes[-1:]


def _classes(run: RunFolder) -> int:
    return 1 + max(map(int, run.facts().labels))


# A site


def judged_network(
    sites: RunSites, asked: Evaluate, place: Path, device: str = "cpu"
) -> EvaluationFigures:
    """Judges a segmentation network on the patients whom the only one of these sites held out.

    `place` is a folder for the weights' file.

    Raises:
        ProtocolError: the network is not known, or the weights do not fit it.
        RunError, DataError, CohortError: as `evaluate_run`, or the site's cases have changed.
    """
    check_judged(sites, None)
    run, ((site, data),) = sites.run, sites.data.items()
    recipe, facts = run.recipe(), run.facts()
    data.check_labels(facts.labels)
    if {*data.info.labels} - {*facts.labels.values()}:
        # Else which of them are refused, as too few patients have them, would be told uncounted.
        raise ProtocolError("the run is told without all of this site's labels.")
    modalities = facts.sites[site]["modalities"]

    def build() -> nn.Module:
        if (classes := _classes(run)) > MOST_CLASSES:
            raise ValueError("more classes than a network predicts")
        return build_segmenter(
            len(modalities), classes, network=asked.network, width=asked.width,
            space=tuple(recipe.image.size),
        )  # fmt: skip

    model = restored(build, asked, place).to(device)
    _check_unchanged(sites.changed(), data.folder)
    _, held_out = real_of_run(sites, None, modalities)
    if not held_out:
        raise DataError(f"nobody of {data.folder} was held out.")
    judged = Judged(held_out, {name: int(number) for number, name in facts.labels.items()})
    predicted = predict(model, torch.stack([case.image for case in held_out]))
    scores = judged.scores([predicted], unlabelled=recipe.masks.unlabelled)
    dice = {name: average(own)[:, 0] for name, own in scores.items()}
    return EvaluationFigures(
        scores=[
            _figures(name, known(own), mean(own), *bootstrap_interval(own))
            for name, own in dice.items()
        ]
    )


@torch.no_grad()
def judged_regression(
    run: RunFolder, site: str, data: Path, state: Path, asked: Evaluate, place: Path
) -> EvaluationFigures:
    """As `judged_network`, of a regression and a table; raises as `evaluate_records` does."""
    schema, states = Schema.model_validate(schema_of_run(run)), {site: state}
    split = split_sites(run, {site: data}, states)
    inputs, classes = _marked(split.held, schema), _judged_classes(schema)
    model = restored(lambda: _linear(inputs, classes), asked, place)
    _check_unchanged(changed_sites(run, {site: data}, states, split.members), data)
    found = []
    for name, scores in zip(classes, model(inputs).T.numpy(), strict=True):
        truth = (split.held[schema.target] == name).to_numpy()
        fewer = int(min(truth.sum(), (~truth).sum()))
        auc = aucs_of(truth, scores, samples_of(truth)) if fewer else np.full(2, np.nan)
        found.append(_figures(name, fewer, auc[0], *np.percentile(auc[1:], [2.5, 97.5])))
    return EvaluationFigures(scores=found)


def _check_unchanged(changed: Sequence[str], data: Path) -> None:
    if changed:
        raise DataError(f"{data} has changed since the run, so nobody knows who was held out.")


def _figures(name: str, patients: int, *numbers: float) -> ScoreFigures:
    score, low, high = (None if value != value else float(value) for value in numbers)
    return ScoreFigures(name=name, patients=patients, score=score, low=low, high=high)


def restored(build: Callable[[], nn.Module], asked: Evaluate, place: Path) -> nn.Module:
    """The model with the weights that were sent; raises `ProtocolError` if they are of another."""
    file = place / f"{NAME}.safetensors"
    try:
        model = build()
        size = sum(value.nbytes for value in model.state_dict().values())
        if asked.weights.nbytes > size + SLACK:
            raise ValueError("they are longer")
        file.write_bytes(asked.weights.numpy().tobytes())
        tensors, _ = checkpoint.read(file)
        checkpoint.load_network(NAME, model, tensors)
    except (LookupError, RunError, RuntimeError, TypeError, ValueError) as error:
        raise ProtocolError(
            "the weights are not those of a network of this package for this run, or not finite. "
            "Install the same asyndgan at both ends."
        ) from error
    return model.eval()
