"""What a synthetic set says of the run that painted it. The set may come from another party."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12

from asyndgan.intake.dataset import DataSet
from asyndgan.intake.readers import DataFileError
from asyndgan.recipe import Intensity, explained
from asyndgan.runs import RunFolder
from asyndgan.runs.facts import Count, Hex
from asyndgan.runs.trial import trial_of
from asyndgan.texts import Line, Name, SiteName

_Part = Annotated[float, Field(strict=True, gt=0, le=1)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Range = Annotated[list[_Finite], Field(max_length=2)]


class Provenance(TypedDict, total=False):
    """The keys that are read. Findings of audits are none, so no copy of a set repeats them."""

    generator_sha256: Hex
    run: Hex
    trial: Line
    recipe: Line
    recipe_sha256: Hex
    asyndgan: Line
    shares: dict[SiteName, _Part]
    privacy: Line
    masks: Line
    masks_sha256: Hex
    draws: Count
    seed: Count
    moved: Count
    faded: list[Count]
    contrasts: _Range
    painting_version: Count
    intensity: dict[Name, Intensity]
    stored: dict[Name, _Range]
    folds: Literal["patient", "mask"]
    grid: Literal["masks"]


_PROVENANCE: Final = TypeAdapter(Provenance)


def provenance_of(run: RunFolder) -> dict[str, Any]:
    """What every synthetic set says of the run that made it."""
    facts, recipe = run.facts(), run.recipe()
    return {
        "generator_sha256": facts.generator_sha256,
        "run": facts.run,
        "trial": trial_of(facts, recipe),
        "recipe": recipe.name,
        "recipe_sha256": facts.recipe_digest,
        "asyndgan": facts.version,
        "shares": {site: about["share"] for site, about in facts.teachers.items()},
        "privacy": recipe.privacy.kind,
    }


def stored_provenance(data: DataSet) -> dict[str, Any]:
    """What a synthetic set says of itself, in plain values; other keys are left out.

    Raises `DataError` if the folder is no data set, or a key has a value that no painting gives it.
    """
    try:
        found = _PROVENANCE.validate_python(data.info.provenance)
    except ValidationError as error:
        raise DataFileError(
            data.folder / "dataset.json",
            f"has a provenance that no painting writes:\n{explained(error, [])}".rstrip("."),
            "Take the file that 'asyndgan generate' wrote.",
        ) from error
    return dict(_PROVENANCE.dump_python(found, mode="json"))
