"""The images of a recipe: their grid, and how intensities are normalised."""

from typing import Annotated, ClassVar, Literal, Self, final

from pydantic import Field, ValidationInfo, field_validator, model_validator

from asyndgan.recipe.sections import LABELS_LIMIT, Section
from asyndgan.texts import Name

Spacing = Annotated[float, Field(gt=0)]


@final
class Intensity(Section):
    """How stored intensities are mapped to [-1, 1]; values outside are clipped."""

    kind: Literal["range", "percentiles"] = Field(
        "range",
        description="range: low and high are stored values; percentiles: of each case (volume)",
    )
    low: float = Field(0.0, description="maps to -1; smaller values are clipped")
    high: float = Field(255.0, description="maps to 1; larger values are clipped")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.kind == "percentiles" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(
                "percentiles lie between 0 and 100; if these are stored values, set kind to range"
            )
        return self


@final
class ImageSection(Section):
    """The pixel grid and the intensity normalisation that every site applies to its images."""

    case: ClassVar = "image"
    patients: ClassVar = "patients"
    unit: ClassVar = "pixels"
    augmented: ClassVar = ("shift", "window")
    cases: ClassVar = "pictures, or slices of volumes"

    source: Literal["images", "masks"] = Field(
        "images",
        description="what networks see as images: images, those of the sites; masks, the share "
        "of each label of the sites' masks, at half the size, to train a generator of masks",
    )
    size: tuple[int, ...] = Field(
        (64, 64), min_length=2, max_length=3,
        description="rows and columns in pixels, multiples of 16 from 16 to 1024, as 48x64; one "
        "number sets both. With three, as 32x48x64, whole volumes are painted: slices along "
        "image.axis, rows and columns",
    )  # fmt: skip
    modalities: tuple[str, ...] = Field(
        (),
        description="names of the modalities to paint; empty: all that any site holds",
    )  # fmt: skip
    labels: dict[Name, Annotated[int, Field(ge=0, lt=LABELS_LIMIT)]] = Field(
        {}, max_length=LABELS_LIMIT,
        description="number of each label by name, as in dataset.json; a site with another label "
        "takes no part; empty: all labels of all sites",
    )  # fmt: skip
    spacing: tuple[Spacing, ...] | None = Field(
        None,
        description="millimetres per pixel to resample NIfTI images to, along each side of the "
        "size, or one number. Left out: images are scaled to the size",
    )  # fmt: skip
    axis: Literal["sagittal", "coronal", "axial"] = Field(
        "axial", description="direction along which volumes are cut into slices"
    )
    slices: Literal["all", "labelled"] = Field(
        "all",
        description="slices (or pictures) that are trained on: all, or labelled, those with a "
        "label other than 0. Use labelled for small organs: a mask without a label does not say "
        "what to paint",
    )
    fit: Literal["pad", "crop", "stretch"] = Field(
        "pad",
        description="how images get their size if spacing is left out: pad or crop, which keep "
        "proportions, or stretch",
    )
    intensity: dict[Name, Intensity] = Field(
        {"default": Intensity()},
        description="normalisation of each modality by name; 'default' is for all others, and "
        "for what one of the same kind leaves out",
    )

    @field_validator("intensity", mode="before")
    @classmethod
    def _completed(cls, value: object) -> object:
        """Gives an entry of the same kind as 'default' what it leaves out."""
        rest = value.get("default", {}) if isinstance(value, dict) else {}
        rest = rest.model_dump() if isinstance(rest, Intensity) else rest
        if not isinstance(value, dict) or not isinstance(rest, dict):
            return value
        kind = rest.get("kind", "range")
        return {
            name: {**rest, **own}
            if isinstance(own, dict) and own.get("kind", kind) == kind
            else own
            for name, own in value.items()
        }

    @field_validator("size", "spacing", mode="before")
    @classmethod
    def _square(cls, value: object, info: ValidationInfo) -> object:
        sides = len(info.data.get("size", "xy"))
        return (value,) * sides if isinstance(value, (int, float)) else value

    @field_validator("spacing")
    @classmethod
    def _along_each_side(
        cls, value: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        sides = len(info.data.get("size", "xy"))
        if value is not None and len(value) != sides:
            raise ValueError(f"give one number, or {sides}: one for each side of the size")
        return value

    @field_validator("size")
    @classmethod
    def _fits_the_networks(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 16 or side > 1024 or side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 from 16 to 1024")
        return value

    @field_validator("intensity")
    @classmethod
    def _has_a_default(cls, value: dict[str, Intensity]) -> dict[str, Intensity]:
        return {"default": Intensity(), **value}

    @field_validator("modalities")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or "" in value:
            raise ValueError("name each modality, and each once")
        return value

    @field_validator("labels")
    @classmethod
    def _each_number_once(cls, value: dict[str, int]) -> dict[str, int]:
        if len(set(value.values())) < len(value):
            raise ValueError("two labels have one number")
        return value

    @property
    def whole(self) -> bool:
        """Whether whole volumes are painted, and no slices."""
        return len(self.size) == 3

    @property
    def painted(self) -> tuple[str, ...]:
        """What the generator paints, as far as this section names it; of masks: their labels."""
        if self.source == "masks":
            return tuple(sorted(self.labels, key=lambda name: self.labels[name]))
        return self.modalities

    def intensity_of(self, modality: str) -> Intensity:
        """The normalisation of one modality; 'default' where it has none of its own."""
        return self.intensity.get(modality, self.intensity["default"])
