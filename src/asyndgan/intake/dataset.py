"""A data set's folder, opened once however often a command asks for what is in it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from asyndgan.intake.description import describe, json_table
from asyndgan.intake.listing import CaseFiles, Listing, listed, raise_first
from asyndgan.intake.nnunet import read_arrays, read_masks, slices_of
from asyndgan.intake.patients import doubts, patients_of
from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.recipe import ImageSection
from asyndgan.recipe.image import Intensity
from asyndgan.store.case import RawCase, Source
from asyndgan.store.enrolment import Reason, none_left, none_shared
from asyndgan.store.fitting import SYNTHETIC_INTENSITY, grid_for, shared_modalities
from asyndgan.store.geometry import AXES
from asyndgan.store.info import DatasetInfo
from asyndgan.store.store import Item, Store, compact
from asyndgan.texts import counted, shown_shape

if TYPE_CHECKING:  # torch, which 'check' need not wait for
    from asyndgan.arrays import Mask
    from asyndgan.store.prepared import Case

log = logging.getLogger(__name__)


@final
class DataSet:
    """A folder in nnU-Net's raw convention.

    `dataset.json` is read once, when it is first asked for. Cases come from the folder's store (see
    `asyndgan.store.store`); without one they are kept in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, list[Case]] = {}

    @cached_property
    def table(self) -> dict[str, object]:
        """The content of dataset.json, unchecked; raises `DataError` if it is no JSON object."""
        return json_table(self.folder / "dataset.json")

    @property
    def of_volumes(self) -> bool:
        """Whether its format holds volumes."""
        return bool(READERS[self.info.file_ending].volumes)

    @cached_property
    def info(self) -> DatasetInfo:
        """The description in dataset.json; raises `DataError` as `describe`."""
        return describe(self.folder, self.table)

    @cached_property
    def _listing(self) -> Listing:
        found = listed(self.folder, self.info)
        raise_first(found.faults)
        return found

    @property
    def files(self) -> list[CaseFiles]:
        """The files of each case, sorted by name; raises `DataError` if a file would drop out."""
        return self._listing.cases

    @cached_property
    def patients(self) -> dict[str, str]:
        """The patient of each case, by the case's name.

        Raises `DataError` as `files`, or if the patient pattern is no regular expression.
        """
        return patients_of((files.name for files in self.files), self.info.patient_pattern)

    def check_labels(self, labels: Mapping[str, str]) -> None:
        """Checks that the labels agree with those of a run: number, as text, to name.

        Raises `DataError` if a number has a different name, or a name a different number.
        """
        numbers = {name: int(number) for number, name in labels.items()}
        for name, number in self.info.labels.items():
            if labels.get(str(number), name) != name or numbers.get(name, number) != number:
                known = ", ".join(f"{number} {name}" for number, name in labels.items())
                raise DataFileError(
                    self.folder / "dataset.json",
                    f"label {number} is '{name}' here; the run has {known}",
                    "Give both the same numbers and names, and remap the masks.",
                )

    def cases(
        self,
        image: ImageSection,
        modalities: Sequence[str] | None = None,
        *,
        unmasked: bool = True,
        incomplete: bool = False,
        synthetic: bool = False,
    ) -> "list[Case]":
        """Reads and prepares all cases, sorted by name.

        A synthetic data set is stored normalised and on its recipe's grid, so it is read as its
        provenance says and not resampled to `image.spacing`.

        Args:
            image: the recipe's grid and normalisation.
            modalities: channels to read. None means those of the recipe that the data set has, in
                the recipe's order, or all acquired ones of the data set if the recipe lists none.
            unmasked: accept cases without a mask as all background; otherwise they are refused.
            incomplete: accept cases that lack a modality, if dataset.json says
                `"incomplete": true`; cases that lack all are left out.
            synthetic: accept a synthetic data set; otherwise it is refused, lest what a generator
                painted counts as patients.

        Raises:
            DataError: the data set cannot be read or prepared; the error names the file or case.
        """
        info = self.info
        wanted = tuple(modalities) if modalities is not None else shared_modalities(info, image)
        self._check(image, wanted, synthetic=synthetic)
        if info.synthetic:
            image = image.model_copy(update={"intensity": self._painted_intensity()})
        image = grid_for(info, image)
        incomplete = incomplete and info.incomplete
        if not unmasked:
            raise_first(self._listing.unmasked)
        made_from = [image.model_dump_json(exclude={"modalities"}), wanted, incomplete]
        if (key := repr(made_from)) not in self._made:
            read = partial(self._read, image, wanted, incomplete)
            self._made[key] = self._prepared(made_from, read)
        cases = self._made[key]
        if not cases:
            raise DataFileError(self.folder, *none_left(image, wanted))
        return [*cases]

    def masks(self, image: ImageSection) -> "list[tuple[str, Mask]]":
        """Name and mask [*size] of each of `mask_cases`."""
        return [(case.name, case.mask) for case in self.mask_cases(image)]

    def mask_cases(self, image: ImageSection) -> "list[Case]":
        """Reads the masks, whether or not there are images, on the recipe's grid.

        Masks released by sites and those of a synthetic data set are on that grid already.

        Returns:
            Cases or slices without an image, whose patient is the name of the mask's file;
            all-background masks only if `image.slices` is "all".

        Raises:
            DataError: there is no mask, or one cannot be read.
        """
        from asyndgan.store.prepare import prepare

        grid = grid_for(self.info, image)
        raw = [*read_masks(self.folder, axis=grid.axis, info=self.info, whole=grid.whole)]
        sizes = (one.mask.shape for one in raw if one.mask is not None)
        strange = [size for size in sizes if size != image.size]
        if grid is not image and strange:
            _tell_scaled(self.folder, strange[0], image.size)
        image = grid
        prepared = (prepare(one, image, ["mask"]) for one in raw)
        return [one for one in prepared if image.slices == "all" or one.preparation.labelled]

    def raw(self, files: CaseFiles, image: ImageSection) -> Iterator[RawCase]:
        """One of `files` as stored, slice by slice if it is a volume; see `slices_of`."""
        patient = self.patients[files.name]
        source, channels, mask = self.arrays(files)
        assert source
        return slices_of(source, patient, channels, mask, AXES[image.axis], whole=image.whole)

    def arrays(
        self, files: CaseFiles
    ) -> tuple[Source | None, dict[str, np.ndarray], np.ndarray | None]:
        """What one of `files` holds; see `read_arrays`, which reads it where nothing is kept."""
        if self.stored is None:
            return read_arrays(files, self.info)
        source, item = self.stored[files.name]
        arrays = dict(item.arrays)
        mask = arrays.pop("", None)
        channels = {name: values.astype(np.float32) for name, values in arrays.items()}
        return source, channels, None if mask is None else mask.astype(np.int64)

    @cached_property
    def _store(self) -> Store | None:
        """Where cases are kept; None: those that were painted here are read from their files."""
        return None if self.info.synthetic else Store(self.folder)

    @cached_property
    def _state(self) -> list[tuple[str, int, int, int]]:
        """Path, size and times of change, of content and of all else, of each file of the set."""
        files = [self.folder / "dataset.json"]
        for case in self.files:
            files += [*case.images.values(), *filter(None, [case.mask])]
        known = ((path.relative_to(self.folder).as_posix(), path.stat()) for path in files)
        return [(name, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in known]

    @cached_property
    def stored(self) -> dict[str, tuple[Source, Item]] | None:
        """By the case's name what its files hold, mapped; None: nothing can be kept."""
        if self._store is None:
            return None
        made = (_item(*read_arrays(files, self.info)) for files in self.files)
        return self._store.part("cases", self._state, None, lambda: made, self._sources)

    def _sources(self, items: list[Item]) -> dict[str, tuple[Source, Item]]:
        found = {}
        for files, item in zip(self.files, items, strict=True):
            spacing = tuple(map(float, item.about["spacing"]))
            (shape,) = {values.shape for values in item.arrays.values()}
            if item.about["name"] != files.name or not len(shape) == len(spacing) in (2, 3):
                raise ValueError("it is another case")
            found[files.name] = Source(files.name, shape, spacing, str(item.about["turn"])), item
        return found

    def _check(self, image: ImageSection, wanted: Sequence[str], *, synthetic: bool) -> None:
        if not wanted:
            reason = none_shared(self.info.modalities, image) or NOT_ACQUIRED
            raise DataFileError(self.folder / "dataset.json", *reason)
        if unreal := painted(self.info, synthetic=synthetic):
            raise DataFileError(self.folder, *unreal)

    def _painted_intensity(self) -> dict[str, Intensity]:
        """What a synthetic set stores for -1 and 1, by modality: by its provenance, or 0 and 255.

        Raises `DataError` if the provenance gives a modality no two finite numbers in order.
        """
        stored = self.info.provenance.get("stored", {})
        try:
            known = {name: Intensity(low=low, high=high) for name, (low, high) in stored.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise DataFileError(
                self.folder / "dataset.json",
                "says in its provenance no lowest and highest stored value of each modality",
                "Take the file that 'asyndgan generate' wrote.",
            ) from error
        return {"default": SYNTHETIC_INTENSITY, **known}

    def _prepared(
        self, made_from: list[object], read: "Callable[[], Iterator[Case]]"
    ) -> "list[Case]":
        """Prepared cases from the store; read where nothing is kept."""
        from asyndgan.store.prepared import restored, stored

        found = self._store and self._store.part(
            "prepared",
            self._state,
            made_from,
            lambda: map(stored, read()),
            lambda items: restored(items, self.patients),
        )
        return [*read()] if found is None else found

    def _read(
        self, image: ImageSection, wanted: Sequence[str], incomplete: bool
    ) -> "Iterator[Case]":
        from asyndgan.store.prepare import prepare

        for raw in (raw for files in self.files for raw in self.raw(files, image)):
            if incomplete and not any(name in raw.channels for name in wanted):
                continue  # the case has only modalities that are not asked for
            case = prepare(raw, image, wanted, incomplete=incomplete)
            if image.slices == "all" or case.preparation.labelled:
                yield case


def _item(
    source: Source | None, channels: Mapping[str, np.ndarray], mask: np.ndarray | None
) -> Item:
    """A case of which the mask has no name."""
    assert source
    arrays = {name: compact(values) for name, values in channels.items()}
    arrays |= {} if mask is None else {"": mask.astype(np.uint8)}  # labels are 0 to 255
    return Item(
        {"name": source.name, "spacing": source.spacing, "turn": source.orientation}, arrays
    )


@cache  # a folder is read for each site
def _tell_scaled(folder: Path, had: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    log.warning(
        "%s: its masks have %s pixels and are scaled to %s. Unless they show as much of "
        "a patient as the sites' images, anatomy gets another size. Without --masks a run learns "
        "masks of its own size first.",
        folder, shown_shape(had), shown_shape(wanted),
    )  # fmt: skip


NOT_ACQUIRED: Final = ("has no acquired modality", "Add one.")


def painted(info: DatasetInfo, *, synthetic: bool = False) -> Reason | None:
    """Why a set is none of patients, and what to do, unless such a set is accepted; None: it is."""
    if info.synthetic_cases:
        return (
            f"holds {len(info.synthetic_cases)} synthetic cases beside real ones",
            "Name the data set that it was made from.",
        )
    if info.synthetic and not synthetic:
        return "is a synthetic data set, and patients are wanted", "Name a folder of theirs."
    return None


SLICED: Final = (
    "Sites hold volumes and single slices are painted, so neighbouring slices may not fit. "
    "For whole volumes begin with 'asyndgan init ... --volumes' (docs/volumes.md)."
)
"""What is said of a run of slices of volumes."""


def sliced(sets: Iterable[DataSet], image: ImageSection) -> bool:
    """Whether a recipe cuts volumes of these sets, as far as they can be read, into slices."""
    for data in sets if not image.whole else ():
        with suppress(DataFileError):  # which the site itself tells
            shapes = (source.shape for source, _ in (data.stored or {}).values())
            if any(len(shape) == 3 and shape[AXES[image.axis]] > 1 for shape in shapes):
                return True
    return False


def told(sets: Mapping[str, DataSet]) -> str:
    """How many patients data sets have by their case names, and whether they may be fewer.

    Opens no image. Raises `DataError` if the data set cannot be listed.
    """
    lines = []
    for name, data in sets.items():
        what = counted(len(data.patients), "volume" if data.of_volumes else "picture")
        said = f"{name}: {counted(len({*data.patients.values()}), 'patient')}, {what}"
        more = doubts([*data.patients], data.info.patient_pattern, volumes=data.of_volumes)
        lines.append(". ".join([said, *more]))
    return "\n".join(lines)
