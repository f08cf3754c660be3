"""The public Python API, which `asyndgan` itself exports: commands as functions, for notebooks.

Torch's number of threads and its global random state stay as they were found.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field, SkipValidation, ValidationError, validate_call
from torch import Tensor

from asyndgan.auditing.asking import answered_audits
from asyndgan.auditing.record import AuditRecord
from asyndgan.auditing.records import RecordsAudit
from asyndgan.errors import AsyndganError, RunError, StorageError, not_written
from asyndgan.export.writing import written_whole
from asyndgan.intake.between import check_apart
from asyndgan.judging.bench import Bench, OnProgress
from asyndgan.judging.records import RecordsEvaluation
from asyndgan.judging.table import Evaluation
from asyndgan.kinds import kind_of
from asyndgan.models import check_parts
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.painter import PaintedSet, Painter, check_labels_of, check_look, label_maps
from asyndgan.painting.publishing import Release, describe
from asyndgan.painting.synthesise import check_paintable, released_masks, synthesise
from asyndgan.recipe import Recipe
from asyndgan.recipe.faults import WORDS, shown
from asyndgan.recipe.recipe import dotted
from asyndgan.reports.of_run import report_run
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.mask_learning import learned_masks, learns_masks
from asyndgan.runs.planned import planned, within
from asyndgan.runs.shipped import run_of
from asyndgan.runs.train import Watch
from asyndgan.runs.train import train as train_run
from asyndgan.runs.trial import NO_RESULT, trial_of
from asyndgan.texts import check_site_names
from asyndgan.training.compute import torch_threads

log = logging.getLogger(__name__)

Folder = str | Path
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
BUDGET: Final = SegmentationBudget()

_WANTED: Final = {
    **dict.fromkeys(("out", "masks", "test", "synthetic", "holdout", "like"), "give a path"),
    **dict.fromkeys(("labels", "fade", "release", "audits"), "give a list, such as ['one']"),
    **dict.fromkeys(
        ("sites", "states", "policies"), "give a dictionary, as {'a': 'data/a'}, names as text"
    ),
    **dict.fromkeys(("run", "start"), "give a Run of asyndgan, or the path of its folder"),
    "recipe": "give a recipe, the name of one or the path of a TOML file",
    "overrides": "give a dictionary, such as {'training.steps': 100}",
    "without": "give a dictionary, such as {'north': ['T1']}",
    "watch": "give a function, such as print",
}
"""What an argument should be, in place of what its validator says."""

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
            faults = {}
            for fault in error.errors()[:3]:
                key = str(fault["loc"][0])
                said = fault["msg"].replace("Input should be", "it should be")
                wanted = _WANTED.get(key) or WORDS.get(fault["type"], said)
                faults[key] = f"{key} = {shown(given.get(key, fault['input']))}: {wanted}"
            raise RunError(f"asyndgan.{name}: {'; '.join(faults.values())}.") from error
        except OSError as error:
            if isinstance(error, AsyndganError) or not error.filename:
                raise
            raise StorageError(not_written(error.filename, error)) from error
        except AsyndganError as error:
            error.args = tuple(_in_python(str(text)) for text in error.args[:1])
            raise

    return called


def _in_python(text: str) -> str:
    """What an error says of options of commands, by the names of arguments."""
    text = text.replace("'asyndgan train ... --resume'", "asyndgan.train(..., resume=True)")
    for option, argument in (("resume", "resume=True"), ("set", "overrides"), ("from", "start")):
        text = re.sub(rf"--{option}\b", argument, text)
    return re.sub(r"--(?=\w)", "", re.sub(r"--(site|state|label)\b", r"\1s", text))


@final
class Run:
    """A run folder as it was when this object was made, and what its generator paints.

    Args:
        path: folder that `train` or `asyndgan train` wrote; or `"nuclei"`, which comes with us.

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
        self.path = run_of(path)
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
        """The generator as a torch module: `generator(masks)` paints masks (n, *space).

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
        self.folder.check_masked("; have asyndgan.generate paint a set.")
        if masks is None:
            stack = torch.stack([mask for _, mask in released_masks(self.folder)])
        else:
            stack = label_maps(masks, self.size, self.facts.scope.labels)
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
            mask: label map (*sides) or stack (n, *sides) of whole numbers, of the run's `size`,
                with labels out of `labels`. The same mask twice in a stack gives two images, if the
                generator has noise, a latent or looks.
            look: one of `looks`, to paint all images in it; None: drawn for each image by the
                sites' shares. A modality that the site does not hold is painted in another look.
            seed: seed of the noise and the looks.

        Returns:
            Intensities from -1 to 1, (modalities, *sides), or (n, ...) for a stack.

        Raises:
            RunError: the run cannot paint from this mask, or in this look.
        """
        self.folder.check_masked("; have asyndgan.generate paint a set.")
        if look is not None:
            check_look(self.recipe, self.facts, look)
        masks = label_maps(mask, self.size, self.facts.scope.labels)
        named = [(f"mask-{number}", each) for number, each in enumerate(masks)]
        looks = [look] * len(named) if look is not None else []
        cases = synthesise(self.folder, named, looks=looks, seed=seed)
        images = torch.stack([case.image for case in cases]).numpy()
        return images if np.ndim(mask) > len(self.size) else images[0]


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
        masks: folder of masks to paint from, if the recipe has `masks.source` "given"; None: the
            sites teach a generator of masks first, in OUT-masks.
        policies: policy file of each site, by its name; a site without one lets out all that the
            recipe asks for.
        records: folder that keeps the sites' ledgers and accounts beyond this run.
        without: modalities of a site that are not used, by its name.
        engine: `processes` gives each site a process of its own.
        resume: continue from the newest checkpoint in `out`.
        start: a finished run whose generator this one begins with, as far as it fits.
        threads: for the generator's arithmetic; None: as many as are fastest.
        device: torch device for all networks: `cpu`, `cuda`, `cuda:1`, `mps`.
        watch: called after every step; `print` will do.

    Raises:
        Interrupted: after Ctrl-C, when a checkpoint is written.
        NotFiniteError: a loss became infinite or NaN.
        PolicyError: a policy cannot be read, or does not allow the recipe.
        RecipeError, RunError, DataError, CohortError: the run cannot begin, or not be resumed.
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
        "engine": engine, "threads": threads, "device": device,
    }  # fmt: skip
    given = _path(masks)
    if not (resume or resolved.table):
        check_apart([*_sites(sites).values()], resolved.image)
    if learns_masks(resolved, given, place, resume=resume):
        given = learned_masks(resolved, _sites(sites), place, resume=resume, watch=watch, **how)
    run = train_run(
        resolved, _sites(sites), place, masks=given, resume=resume, watch=watch,
        start=None if start is None else _folder(start).path, **how,
    )  # fmt: skip
    if trial := trial_of(run.facts(), run.recipe()):
        log.warning("%s. %s", trial, NO_RESULT)
    return Run(run.path)


@_checked
def plan(
    sites: Mapping[str, Folder],
    *,
    overrides: Mapping[str, Any] | None = None,
    volumes: bool = False,
    hours: Annotated[float, Field(ge=0.01)] | None = None,
) -> Recipe:
    """Plans a recipe from the sites' data, as `asyndgan plan` does; `print` it for its keys.

    Args:
        sites: folder of each site's data, or its fingerprint's file, by the site's name.
        overrides: values of keys of the recipe, such as `{"image.size": 96}`.
        volumes: whether to paint whole volumes, not their slices.
        hours: hours that a training may take on this machine; None: images get 64 pixels along a
            side at most, volumes 48.

    Raises:
        DataError, RecipeError, RunError: nothing can be planned from these.
    """
    if not sites:
        raise RunError("there is no site to plan for. Name each with its folder.")
    fits = None if hours is None else within(hours)
    return planned(_sites(sites), _changes(overrides), volumes=volumes, fits=fits).recipe


@_checked
def generate(
    run: Run | Folder,
    out: Folder,
    *,
    masks: Folder | None = None,
    draws: Count | None = None,
    fade: Sequence[str] = (),
    like: Folder | None = None,
    watch: OnProgress | None = None,
) -> int:
    """Paints an nnU-Net data set with its folds, its provenance and a model card.

    Without `draws` it is the set that `evaluate` and `audit` judge by default.

    Args:
        run: a finished run.
        out: folder to write; must be new.
        masks: data set whose masks to paint from; None: the masks that the sites released. From
            masks of volumes, volumes are written on their grids.
        draws: images per mask: one of the mask itself, the others of it mirrored, rotated, scaled
            and shifted at random; None: three.
        fade: names of labels to show more or less clearly from image to image.
        like: data set of a site whose file format, bit depth, spacing, orientation and range of
            intensities to take; None: PNG with 8 bits.
        watch: called with a text, the cases painted and all cases; `print` will do.

    Returns:
        The number of cases.

    Raises:
        RunError, DataError: the run has not finished, or cannot paint from these masks.
    """
    return kind_of(_folder(run)).generate(
        Path(out), masks=_path(masks), draws=draws, fade=fade, like=_path(like), watch=watch
    )


@_checked
def release(
    run: Run | Folder,
    out: Folder,
    audits: Sequence[Folder] = (),
    *,
    licence: str,
    creator: str,
    contact: str,
    use: str = "",
    masks: Folder | None = None,
    fade: Sequence[str] = (),
    like: Folder | None = None,
    watch: OnProgress | None = None,
) -> int:
    """Paints the set that audits examined, to pass it on, with what catalogues read of it.

    Beside what `generate` writes: croissant.json, ro-crate-metadata.json and a manifest.

    Args:
        run: a finished run.
        out: folder to write; must be new.
        audits: folders of audits, together of all sites; none: those that the sites of a federation
            answered, kept with the run.
        licence: SPDX expression, such as `CC-BY-4.0`.
        creator: person or institution that answers for the set.
        contact: address of mail or of a page, where recipients ask.
        use: permitted use, as a code of the Data Use Ontology such as `DUO:0000042`.
        masks: as in `generate`, and as they were audited.
        fade: likewise.
        like: as in `generate`.
        watch: as in `generate`.

    Returns:
        The number of cases.

    Raises:
        RunError: the audits do not permit the release: they do not cover all sites, or found
            evidence of members or near copies.
        Others: as `generate`.
    """
    said = Release(licence, creator, contact, use)
    folder = _folder(run)
    painted = ", ".join(folder.facts().modalities) or "records"
    with written_whole(Path(out)) as half:
        count, audited = kind_of(folder).release(
            half, [Path(one) for one in audits] or answered_audits(folder), masks=_path(masks),
            fade=fade, like=_path(like), watch=watch,
        )  # fmt: skip
        describe(half, said, f"Synthetic {painted} ({Path(out).resolve().name})", audited)
    return count


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
        watch: called with a text, the steps done and all steps; `print` will do.

    Returns:
        The table; its `headline` is a summary with one line for each label. Of a run of records:
        AUCs, calibration and likeness.

    Raises:
        RunError, DataError: these cannot be compared, as where a test patient is at a site too.
        NotFiniteError: a loss became infinite or NaN.
    """
    budget = SegmentationBudget(steps=steps)
    return kind_of(_folder(run)).evaluate(
        _sites(sites), Bench(Path(out), budget, range(seeds), workers, device, watch),
        test=_path(test), synthetic=_path(synthetic), label=labels,
    )  # fmt: skip


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
        watch: called with a text, the work done and all work, in paintings; `print` will do.

    Raises:
        RunError, DataError: there is nobody to compare with, or these are not the run's sites.
    """
    return kind_of(_folder(run)).audit(
        _sites(sites), Path(out), holdout=_path(holdout), states=_sites(states or {}),
        masks=_path(masks), fade=fade, watch=watch,
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
) -> Path:
    """Writes one HTML page about a run, as `asyndgan report` does.

    Args:
        run: a run, finished or not.
        out: file to write; None: report.html in the run's folder.
        sites: folders of sites whose real images are shown. They become part of the page.
        evaluation: folder of an evaluation; None: `evaluation` in the run's folder or beside it.
        audits: folders of audits; none: `audit`, likewise.
        synthetic: synthetic data set to show; None: images are painted from the run's masks.

    Returns:
        The file.

    Raises:
        RunError, DataError: a folder is not of this run, or cannot be read.
    """
    return report_run(
        _folder(run), _path(out), sites=_sites(sites or {}), evaluation=_path(evaluation),
        audits=[Path(one) for one in audits], synthetic=_path(synthetic), tell=log.warning,
    ).page  # fmt: skip


def _changes(overrides: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={json.dumps(value, default=_plain)}" for key, value in dotted(overrides or {})]


def _plain(value: Any) -> Any:
    """A number or array of numpy, or a path, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _path(folder: Folder | None) -> Path | None:
    return None if folder is None else Path(folder)


def _folder(run: Run | Folder) -> RunFolder:
    return RunFolder(run.path if isinstance(run, Run) else run_of(run))


def _sites(sites: Mapping[str, Folder]) -> dict[str, Path]:
    check_site_names(sites)
    return {site: Path(data) for site, data in sites.items()}
