"""The public Python API, which `asyndgan` itself exports: commands as functions, for notebooks.

Arguments are named like the options of the commands, so that error messages fit both. Torch's
number of threads and its global random state stay as they were found, also after errors.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field, SkipValidation, ValidationError, validate_call
from torch import Tensor

from asyndgan.arrays import Masks
from asyndgan.auditing.record import AuditRecord, check_released
from asyndgan.auditing.records import RecordsAudit, audit_records, check_released_records
from asyndgan.auditing.run import audit_run
from asyndgan.errors import RunError
from asyndgan.export.writing import written_whole
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.judging.bench import Bench, OnProgress
from asyndgan.judging.of_run import evaluate_run
from asyndgan.judging.records import RecordsEvaluation, evaluate_records
from asyndgan.judging.table import Evaluation
from asyndgan.models import check_parts
from asyndgan.models.budget import SegmentationBudget
from asyndgan.painting.fading import fading_of
from asyndgan.painting.looks import check_look
from asyndgan.painting.painter import PaintedSet, Painter
from asyndgan.painting.records import generate_records
from asyndgan.painting.sets import watched, write_standard
from asyndgan.painting.synthesise import (
    check_labels_of,
    check_paintable,
    chosen_masks,
    masks_digest,
    released_masks,
    synthesise,
)
from asyndgan.painting.writing import PICTURES, Storage, write_synthetic
from asyndgan.recipe import Recipe
from asyndgan.recipe.faults import shown
from asyndgan.recipe.recipe import dotted
from asyndgan.reports.of_run import report_run
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.learned import learned_masks, learns_masks
from asyndgan.runs.planned import plan_for, within
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import Watch
from asyndgan.runs.train import train as train_run
from asyndgan.tables.schema import file_of, format_of, refuse_for_images
from asyndgan.texts import check_site_names
from asyndgan.training.compute import torch_threads

log = logging.getLogger(__name__)

Folder = str | Path
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
BUDGET: Final = SegmentationBudget()

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


@contextmanager
def _torch_as_found() -> Iterator[None]:
    """Restores torch's number of threads and its global random state, also after an error."""
    cards = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch_threads(torch.get_num_threads()), torch.random.fork_rng(cards):
        yield


def _checked(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Checks arguments by their annotations, and leaves torch as it was found."""
    check = validate_call(config=ConfigDict(arbitrary_types_allowed=True))
    call: Callable[..., Returned] = check(function)
    name, bind = function.__qualname__, signature(function).bind

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        given = bind(*args, **kwargs).arguments  # by name, for the errors
        try:
            with _torch_as_found():
                return call(**given)
        except ValidationError as error:
            if error.title != name:
                raise
            faults = "; ".join(
                f"{fault['loc'][0]} = {shown(fault['input'])}: {fault['msg']}"
                for fault in error.errors()[:3]
            )
            raise RunError(f"asyndgan.{name}: {faults}.") from error

    return called


@final
class Run:
    """A run folder as it was when this object was made, and what its generator paints.

    Args:
        path: folder that `train` or `asyndgan train` wrote.

    Attributes:
        path: the folder.
        folder: the folder's files, such as `folder.metrics()`.
        recipe: what was trained and how.
        facts: content of `run.json`.
        state: `running`, `interrupted`, `failed` or `finished`.
        modalities: names of the channels that the generator paints.
        labels: name of each label of a mask, by number.
        size: rows and columns of masks and images.
        looks: sites in whose look images can be painted; empty if the generator has no looks
            (`generator.style` is 0).

    Raises:
        RunError: the folder holds no run.
    """

    def __init__(self, path: Folder) -> None:
        self.path = Path(path)
        self.folder = RunFolder(self.path)
        self.recipe, self.facts = self.folder.recipe(), self.folder.facts()
        self.state = self.facts.state
        self.modalities = self.facts.scope.modalities
        self.labels = self.facts.scope.labels
        self.size = self.recipe.size
        self.looks = tuple(self.facts.teachers) if self.recipe.generator.style else ()

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}, {self.state} at step {self.facts.steps} of "
            f"{self.recipe.training.steps}, sites {', '.join(self.facts.sites) or 'none'}, paints "
            f"{', '.join(self.modalities)} in {' x '.join(map(str, self.size))} pixels)"
        )

    @cached_property
    def generator(self) -> Painter:
        """The generator as a torch module: `generator(masks)` paints int64 masks (n, *space).

        Raises:
            RunError: the run has not finished.
        """
        return Painter(self.folder)

    @_checked
    def dataset(
        self,
        masks: Annotated[npt.ArrayLike | Tensor | None, SkipValidation] = None,
        *,
        draws: Count = 1,
        seed: Seed = 0,
        transform: Callable[..., Any] | None = None,
    ) -> PaintedSet:
        """A `torch.utils.data.Dataset` whose images are painted when they are asked for.

        An item is `{"image": (c, *space) in [-1, 1], "label": (1, *space)}`, as MONAI's dictionary
        transforms take it.

        Args:
            masks: as for `paint`; None: those that the run was painted from, or that sites
                released.
            draws: images of each mask, each with other noise.
            seed: seed of the noise and the looks.
            transform: applied to each item.

        Raises:
            RunError: as `paint`, or the run kept no masks.
        """
        self._check_masked()
        if masks is None:
            stack = torch.stack([mask for _, mask in released_masks(self.folder)])
        else:
            stack = _label_maps(masks, self.size)
            check_labels_of(stack, self.facts.scope.labels)
        check_paintable(self.recipe, self.facts, draws=draws)
        return PaintedSet(self.generator, stack, draws=draws, seed=seed, transform=transform)

    @_checked
    def paint(
        self,
        mask: Annotated[npt.ArrayLike | Tensor, SkipValidation],
        *,
        look: str | None = None,
        seed: Seed = 0,
    ) -> npt.NDArray[np.float32]:
        """Paints an image from a mask, or one from each mask of a stack.

        Args:
            mask: label map (rows, columns) or (n, rows, columns) of whole numbers, of the run's
                `size`, with labels out of `labels`. The same mask twice in a stack gives two
                images, if the generator has noise, a latent or looks.
            look: one of `looks`, to paint all images in it; None: drawn for each image by the
                sites' shares. A modality that the site does not hold is painted in another look.
            seed: seed of the noise and the looks.

        Returns:
            Intensities from -1 to 1, (modalities, rows, columns), or (n, ...) for a stack.

        Raises:
            RunError: the run has not finished or paints without masks, the mask has another size,
                is not of whole numbers or holds an unknown label, or there is no such look.
        """
        self._check_masked()
        if look is not None:
            check_look(self.recipe, self.facts, look)
        masks = _label_maps(mask, self.size)
        named = [(f"mask-{number}", each) for number, each in enumerate(masks)]
        looks = [look] * len(named) if look is not None else []
        cases = synthesise(self.folder, named, looks=looks, seed=seed)
        images = torch.stack([case.image for case in cases]).numpy()
        return images if np.ndim(mask) == 3 else images[0]

    def _check_masked(self) -> None:
        if self.recipe.condition.kind != "mask":
            raise RunError(
                f"the run in {self.path} paints without masks; have asyndgan.generate paint a set."
            )


@_checked
def train(
    recipe: Recipe | Folder,
    sites: Mapping[str, Folder],
    out: Folder,
    *,
    overrides: Mapping[str, Any] | None = None,
    masks: Folder | None = None,
    policies: Mapping[str, Folder] | None = None,
    records: Folder | None = None,
    without: Mapping[str, Sequence[str]] | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    engine: Literal["inprocess", "processes"] = "inprocess",
    resume: bool = False,
    start: Run | Folder | None = None,
    threads: Count | None = None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Run:
    """Trains one generator with several sites on this machine; as `asyndgan train` does.

    Args:
        recipe: a recipe, the name of one that comes with the package, or a TOML file.
        sites: folder of each site's data, by the site's name.
        out: run folder to write.
        overrides: values of keys of the recipe, such as `{"training.steps": 100}`.
        masks: folder of masks to paint from instead of the patients' own, if the recipe has
            `masks.source` "given". None: the sites teach a generator of masks first, in OUT-masks.
        policies: policy file of each site, by its name, as `asyndgan policy` checks it. A site
            without one lets out everything that the recipe asks for.
        records: folder that keeps the sites' ledgers and accounts beyond this run.
        without: modalities of a site that are not used, by its name.
        patient_pattern: regular expression whose first group finds the patient in a case's name.
        engine: `processes` gives each site a process of its own.
        resume: continue from the newest checkpoint in `out`.
        start: a finished run whose generator this one begins with, as far as it fits (`--from`);
            `facts.start` of the result says what was taken.
        threads: for the generator's arithmetic; None: as many as are fastest.
        device: torch device for all networks: `cpu`, `cuda`, `cuda:1`, `mps`.
        watch: called after every step; `print` will do.

    Raises:
        Interrupted: after Ctrl-C, when a checkpoint is written.
        NotFiniteError: a loss became infinite or NaN.
        RecipeError: the recipe, an override or a site's name is not valid.
        PolicyError: a policy cannot be read, or does not allow the recipe.
        RunError, DataError, CohortError: the run cannot begin, or not be resumed.
    """
    changes = _changes(overrides)
    if isinstance(recipe, Recipe):
        resolved = Recipe.from_toml(recipe.to_toml(), changes)
        check_parts(resolved)
    else:
        resolved = load_recipe(str(recipe), changes)
    place = Path(out)
    how: dict[str, Any] = {
        "policies": _sites(policies or {}), "records": _path(records), "without": without or {},
        "patients": patient_pattern, "engine": engine, "threads": threads, "device": device,
    }  # fmt: skip
    given = _path(masks)
    if learns_masks(resolved, given, place, resume=resume):
        given = learned_masks(resolved, _sites(sites), place, resume=resume, watch=watch, **how)
    run = train_run(
        resolved, _sites(sites), place, masks=given, resume=resume, watch=watch,
        start=None if start is None else _folder(start).path, **how,
    )  # fmt: skip
    return Run(run.path)


@_checked
def plan(
    sites: Mapping[str, Folder],
    *,
    overrides: Mapping[str, Any] | None = None,
    hours: Annotated[float, Field(ge=0.01)] | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> Recipe:
    """Plans a recipe from the sites' data, as `asyndgan plan` does; `print` it for its keys.

    Args:
        sites: folder of each site's data, or its fingerprint's file, by the site's name.
        overrides: values of keys of the recipe, such as `{"image.size": 96}`.
        hours: hours that a training may take on this machine; None: images get 64 pixels along a
            side at most.
        patient_pattern: as for `train`.

    Raises:
        DataError: a folder cannot be read, or the sites' names contradict.
        RecipeError: an override is not valid.
        RunError: there is no site, or two have one data set.
    """
    if not sites:
        raise RunError("there is no site to plan for. Name each with its folder.")
    fits = None if hours is None else within(hours)
    made = plan_for(_sites(sites), _changes(overrides), patient_pattern, fits=fits)
    return made if isinstance(made, Recipe) else made.recipe


@_checked
def generate(
    run: Run | Folder,
    out: Folder,
    *,
    masks: Folder | None = None,
    draws: Count | None = None,
    augment: bool = False,
    seed: Seed = 0,
    fade: Sequence[str] = (),
    release: Sequence[Folder] = (),
    like: Folder | None = None,
    watch: OnProgress | None = None,
) -> int:
    """Paints an nnU-Net data set with its folds, its provenance and a model card.

    Without `draws`, `augment` and `seed` it is the set that `evaluate` and `audit` judge by
    default: three images a mask, two of them of the mask moved at random.

    Args:
        run: a finished run.
        out: folder to write; must be new.
        masks: data set whose masks to paint from; None: the masks that the sites released.
        draws: images per mask, each with other noise; None: see above.
        augment: mirror, rotate, scale and shift the masks, differently for every draw.
        seed: seed of noise and augmentation.
        fade: names of labels to show more or less clearly from image to image.
        release: folders of audits, together of all sites. The set that they audited is painted,
            and only if they found no evidence of members and no near copies.
        like: data set of a site whose file format and bit depth to take and, of NIfTI, spacing and
            orientation and, where the recipe normalises by a range, the intensities; None: PNG with
            8 bits.
        watch: called with a text, the cases painted and all cases; `print` will do.

    Returns:
        The number of cases.

    Raises:
        RunError: the run has not finished, there are no masks to paint from or they hold an
            unknown label, several draws would be equal, the audits do not permit the release, or
            `release` is combined with `draws`, `augment` or `seed`.
        DataError: the folder of masks cannot be used, or `out` cannot be written.
    """
    own = (draws, augment, seed) != (None, False, 0)
    if release and own:
        raise RunError(
            "with --release the set that was audited is painted again, so --draws, --augment and "
            "--seed have no effect; leave them out."
        )
    folder = _folder(run)
    if folder.recipe().table:
        refuse_for_images({"masks": masks, "augment": augment, "fade": fade})
        permitted = (
            check_released_records(folder, [Path(one) for one in release]) if release else ""
        )
        return generate_records(
            folder, Path(out), draws=draws, seed=seed, audited=permitted,
            ending=format_of(file_of(Path(like))) if like else ".csv",
        )  # fmt: skip
    named, origin = chosen_masks(folder, _path(masks))
    fading = fading_of(folder, fade)
    storage = Storage.like(DataSet(Path(like)), folder) if like else PICTURES
    audits, audited = [Path(one) for one in release], None
    with written_whole(Path(out)) as half:  # on entry it looks whether it can be written
        if audits:
            audited = check_released(folder, masks_digest(named), audits, fading=fading)
        if not own:
            return write_standard(
                half, folder, named, origin, fading=fading, watch=watch, audited=audited,
                storage=storage,
            )  # fmt: skip
        draws = draws or 1
        cases = synthesise(folder, named, draws=draws, seed=seed, move=augment, fading=fading)
        return write_synthetic(
            half, folder, watched(cases, draws * len(named), watch), masks=named,
            origin=replace(origin, text=origin.text + (", moved at random" if augment else "")),
            painting={"draws": draws, "seed": seed, **fading.told()}, storage=storage,
        )  # fmt: skip


@_checked
def evaluate(
    run: Run | Folder,
    sites: Mapping[str, Folder],
    out: Folder,
    *,
    test: Folder | None = None,
    synthetic: Folder | None = None,
    seeds: Count = 1,
    steps: Count = BUDGET.steps,
    labels: Sequence[str] | None = None,
    workers: Count | None = None,
    device: str = "cpu",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    watch: OnProgress | None = None,
) -> Evaluation | RecordsEvaluation:
    """Compares segmentation networks trained on all real, each site's and synthetic data.

    Args:
        run: a finished run.
        sites: folder of each site's data, by the site's name.
        out: folder for the table, the plots and the cache of what is trained.
        test: real cases to judge on, of patients that no site holds; None: those that the run held
            out (`training.hold_out`).
        synthetic: a synthetic data set of this run; None: one is painted into `out/synthetic`.
        seeds: trainings of each network.
        steps: updates of each network.
        labels: names of the labels to judge by; None: all.
        workers: networks to train at a time, on one core each; None: one for each core.
        device: torch device to train on.
        patient_pattern: the pattern that the run was trained with.
        watch: called with a text, the steps done and all steps; `print` will do.

    Returns:
        The table; its `headline` is a summary with one line for each label. Of a run of records:
        AUCs, calibration and likeness.

    Raises:
        RunError: the run has not finished, there are no patients to judge on, or a patient of the
            test set is at a site as well.
        DataError: a data set cannot be used, or a label is unknown.
        NotFiniteError: a loss became infinite or NaN.
    """
    if _folder(run).recipe().table:
        refuse_for_images(
            {"steps": steps != BUDGET.steps, "label": labels, "workers": workers,
             "device": device != "cpu",
             "patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN}
        )  # fmt: skip
        return evaluate_records(
            _folder(run), _sites(sites), Path(out), test=_path(test), synthetic=_path(synthetic),
            seeds=seeds, watch=watch,
        )  # fmt: skip
    budget = SegmentationBudget(steps=steps)
    return evaluate_run(
        RunSites.opened(_folder(run), _sites(sites), patient_pattern=patient_pattern),
        _opened(test, patient_pattern),
        _opened(synthetic, patient_pattern),
        Bench(Path(out), budget, range(seeds), workers, device, watch),
        targets=labels,
    )


@_checked
def audit(
    run: Run | Folder,
    sites: Mapping[str, Folder],
    out: Folder,
    *,
    holdout: Folder | None = None,
    masks: Folder | None = None,
    fade: Sequence[str] = (),
    states: Mapping[str, Folder] | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    watch: OnProgress | None = None,
) -> AuditRecord | RecordsAudit:
    """Attacks a finished run to measure what it reveals about the patients it was trained on.

    Args:
        run: a finished run.
        sites: folder of the data of some of its sites, by the site's name.
        out: folder for the audit. It will hold real images: keep it at the site.
        holdout: patients of the same hospitals that the run has not seen; None: those that it held
            out (`training.hold_out`).
        masks: data set of masks to paint the audited set from; None: those that sites released, or
            their own.
        fade: labels that the audited set shows more or less clearly.
        states: folder in which a site keeps its states of the run, by the site's name (KIT/runs/RUN
            in a federation); None: in the run's folder.
        patient_pattern: the pattern that the run was trained with.
        watch: called with a text, the work done and all work, in paintings; `print` will do.

    Raises:
        RunError: the run has not finished, there are no patients to compare with, or sites or cases
            are not those of the run.
        DataError: a data set cannot be used.
    """
    if _folder(run).recipe().table:
        refuse_for_images(
            {"masks": masks, "fade": fade,
             "patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN}
        )  # fmt: skip
        return audit_records(
            _folder(run), _sites(sites), Path(out), holdout=_path(holdout),
            states=_sites(states or {}),
        )  # fmt: skip
    opened = RunSites.opened(
        _folder(run), _sites(sites), states=_sites(states or {}), patient_pattern=patient_pattern
    )
    return audit_run(
        opened, Path(out), holdout=_opened(holdout, patient_pattern), masks=_path(masks),
        faded=fade, watch=watch,
    )  # fmt: skip


@_checked
def report(
    run: Run | Folder,
    out: Folder | None = None,
    *,
    sites: Mapping[str, Folder] | None = None,
    evaluation: Folder | None = None,
    audits: Sequence[Folder] = (),
    synthetic: Folder | None = None,
    title: str | None = None,
) -> Path:
    """Writes one HTML page about a run, as `asyndgan report` does.

    Args:
        run: a run, finished or not.
        out: file to write; None: report.html in the run's folder.
        sites: folders of sites whose real images are shown. They become part of the page.
        evaluation: folder of an evaluation; None: `evaluation` in the run's folder or beside it.
        audits: folders of audits; none: `audit`, likewise.
        synthetic: synthetic data set to show; None: images are painted from the run's masks.
        title: title of the page.

    Returns:
        The file.

    Raises:
        RunError: a folder is not of this run.
        DataError: a data set cannot be read.
    """
    return report_run(
        _folder(run), _path(out), sites=_sites(sites or {}), evaluation=_path(evaluation),
        audits=[Path(one) for one in audits], synthetic=_path(synthetic), title=title,
        tell=log.warning,
    ).page  # fmt: skip


def _changes(overrides: Mapping[str, Any] | None) -> list[str]:
    """Overrides as the command line writes them."""
    return [f"{key}={json.dumps(value, default=_plain)}" for key, value in dotted(overrides or {})]


def _plain(value: Any) -> Any:
    """A number or array of numpy, or a path, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _path(folder: Folder | None) -> Path | None:
    return None if folder is None else Path(folder)


def _opened(folder: Folder | None, patient_pattern: str) -> DataSet | None:
    return None if folder is None else DataSet(Path(folder), patient_pattern)


def _folder(run: Run | Folder) -> RunFolder:
    return RunFolder(run.path if isinstance(run, Run) else Path(run))


def _sites(sites: Mapping[str, Folder]) -> dict[str, Path]:
    check_site_names(sites)
    return {site: Path(data) for site, data in sites.items()}


def _label_maps(mask: npt.ArrayLike | Tensor, size: tuple[int, ...]) -> Masks:
    """The masks of a stack, or a single one, as int64; `synthesise` checks their labels."""
    try:
        given = mask if isinstance(mask, Tensor) else np.asarray(mask)
    except ValueError as error:
        raise RunError("the mask's rows differ in length. Give one label to each pixel.") from error
    if isinstance(given, Tensor):
        whole = not (given.is_floating_point() or given.is_complex())
    else:
        whole = given.dtype.kind in "biu"
    if not whole:
        raise RunError(
            f"the mask holds {given.dtype}, and a mask is a label map of whole numbers. Convert it "
            "to an integer type, such as numpy.int64."
        )
    if given.ndim not in (2, 3) or tuple(given.shape[-2:]) != size or not len(given):
        raise RunError(
            f"the mask has shape {tuple(given.shape)}; this run paints from {size}, or (n, "
            f"{size[0]}, {size[1]}) for n masks. Bring it to that size, or have asyndgan.generate "
            "do it for a data set."
        )
    if not isinstance(given, Tensor):
        given = torch.from_numpy(given.astype(np.int64))
    return given.to(torch.device("cpu"), torch.int64).reshape(-1, *size)
