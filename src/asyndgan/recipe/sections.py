"""A recipe: everything that shapes a run, as one frozen and validated value.

A recipe reads no file and no environment variable; `asyndgan.runs` finds recipes by name. Two
parties that hold the same `Recipe.digest()` train the same thing.
"""

import difflib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, final, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from asyndgan.errors import RecipeError
from asyndgan.texts import Name, Title, parsed_toml

SHOWN_FAULTS = 20
Weight = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=0.1)]

MOST_PIXELS: Final = 2**23
"""Most pixels of a message in each modality, such as 32 images of 512x512."""
LABELS_LIMIT: Final = 1024
"""Labels are channels of the generator's input, so nobody may ask for any number of them."""
LARGEST_SHARE: Final = 0.75
"""What one of three or more sites counts for at most, if the recipe does not say: three times what
all others do together. No site of the data sets that results are reported on has that much."""
SEGMENTING: Final = frozenset({"patch_segmentation"})
UNSEGMENTING: Final = frozenset({"patch", "dcgan"})
"""Kinds of this package's discriminators; of another package's nobody knows."""
TAKEN_OVER: Final = ("kind", "augment", "cross_fitted")
"""Keys that a site's own discriminator takes over from the recipe's, unless it names them."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_toml(self, *, comments: bool = True) -> str:
        """A TOML document that parses back to an equal value; with `comments`, one on each key."""
        return "\n".join(_toml_lines(self, "", comments)) + "\n"


@final
class Intensity(Section):
    """How stored intensities are mapped to [-1, 1]; values outside are clipped."""

    kind: Literal["range", "percentiles", "zscore"] = Field(
        "range",
        description="range: low and high are stored values; percentiles: of each case (volume); "
        "zscore: low and high are standard deviations around each case's mean",
    )
    low: float = Field(0.0, description="maps to -1")
    high: float = Field(255.0, description="maps to 1")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.kind == "percentiles" and not (self.low >= 0 and self.high <= 100):
            raise ValueError("percentiles lie between 0 and 100")
        if self.kind == "zscore" and not (self.low >= -50 and self.high <= 50):
            raise ValueError(
                f"zscore counts standard deviations, from -50 to 50; low {self.low:g} and high "
                f"{self.high:g} are none. Take for example low = -3 and high = 5"
            )
        return self


@final
class ImageSection(Section):
    """The pixel grid and the intensity normalisation that every site applies to its images."""

    source: Literal["images", "masks"] = Field(
        "images",
        description="what sites hold as images: theirs, or their masks, one channel a label, for a "
        "generator that paints masks",
    )
    size: tuple[int, int] = Field((64, 64), description="rows and columns; one number for both")
    modalities: tuple[str, ...] = Field(
        (), description="what the generator paints, by name; empty: all that any site holds"
    )
    labels: dict[Name, Annotated[int, Field(ge=0, lt=LABELS_LIMIT)]] = Field(
        {},
        max_length=LABELS_LIMIT,
        description="number of each label by name, as in dataset.json; a site with another label "
        "takes no part; empty: all that any site has",
    )
    spacing: tuple[float, float] | None = Field(
        None,
        description="millimetres a pixel to resample to (NIfTI), rows and columns or one number; "
        "leave out: fit to the size",
    )
    axis: Literal["sagittal", "coronal", "axial"] = Field(
        "axial", description="direction along which volumes are cut into slices"
    )
    slices: Literal["all", "labelled"] = Field(
        "all",
        description="which slices (or pictures) are cases: all, or those that hold a label other "
        "than 0; where there is none of it, a mask says nothing of what to paint",
    )
    resampling: Literal["linear", "nearest"] = Field(
        "linear",
        description="of images (linear is antialiased); a mask's pixel takes the label that covers "
        "most of it",
    )
    fit: Literal["pad", "crop", "stretch"] = Field(
        "pad",
        description="without spacing: keep proportions and pad, keep them and crop, or stretch",
    )
    intensity: dict[Name, Intensity] = Field(
        {"default": Intensity()}, description="by modality; 'default' serves the others"
    )

    @field_validator("size", "spacing", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, (int, float)) else value

    @field_validator("size")
    @classmethod
    def _fits_the_networks(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 16 or side > 1024 or side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 from 16 to 1024")
        return value

    @field_validator("spacing")
    @classmethod
    def _positive(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and min(value) <= 0:
            raise ValueError("millimetres a pixel must be above 0")
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
    def painted(self) -> tuple[str, ...]:
        """What the generator paints, as far as this section names it; of masks: their labels."""
        if self.source == "masks":
            return tuple(sorted(self.labels, key=lambda name: self.labels[name]))
        return self.modalities

    def intensity_of(self, modality: str) -> Intensity:
        """The normalisation of one modality; 'default' where it has none of its own."""
        return self.intensity.get(modality, self.intensity["default"])


@final
class ConditionSection(Section):
    """The condition that the generator paints from."""

    kind: Literal["mask", "class", "none"] = Field(
        "mask", description="a label map, one class an image, or nothing but noise"
    )


@final
class GeneratorSection(Section):
    """The generator, the network at the coordinator."""

    kind: str = Field(
        "resnet",
        description="resnet, spade; dcgan, for classes or without a condition; masks, for "
        "image.source 'masks'; or an entry point 'asyndgan.generators'",
    )
    width: int = Field(64, ge=4, le=512, description="filters of the first layer")
    blocks: int = Field(9, ge=1, le=32, description="residual blocks (resnet) at the lowest size")
    noise: int = Field(0, ge=0, le=256, description="channels of noise beside the condition")
    skip: bool = Field(
        False, description="resnet: the last layer sees condition and noise at full resolution"
    )
    style: int = Field(
        0,
        ge=0,
        le=64,
        description="resnet, spade, dcgan, masks: numbers that tell the generator whose look to "
        "paint, fixed at random for each site (sites that lack a modality share one); looks are "
        "mixed when images are generated",
    )
    latent: int = Field(
        0,
        ge=0,
        le=256,
        description="resnet, spade, dcgan, masks: numbers drawn for each image, for what differs "
        "between whole images",
    )
    position: bool = Field(
        False,
        description="resnet: told where in the image each pixel lies; for masks that leave most "
        "of an image open",
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="handed to a generator of another package"
    )

    @property
    def code(self) -> int:
        """Size of the code that is constant over an image: the site's style, then the latent."""
        return self.style + self.latent


@final
class DiscriminatorSection(Section):
    """The discriminator, the network at each site; it never leaves the site."""

    kind: str = Field(
        "patch",
        description="patch, patch_segmentation; dcgan, which judges an image as a whole; or an "
        "entry point 'asyndgan.discriminators'",
    )
    width: int = Field(64, ge=4, le=512, description="filters of the first layer")
    layers: int = Field(3, ge=1, le=6, description="halvings; 3 judges patches of 70x70 pixels")
    augment: tuple[Literal["intensity", "shift", "cutout"], ...] = Field(
        (),
        description="how images are disturbed before they are judged, real and synthetic ones "
        "alike; for sites with few cases",
    )
    cross_fitted: bool = Field(
        False,
        description="two networks, each of which learns from half of a site's patients; on "
        "synthetic images the less convinced one has the say, so that what is asked for tells "
        "less of who took part",
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="handed to a discriminator of another package"
    )


@final
class LossSection(Section):
    """Weights of the terms of a site's loss on synthetic images; zero disables a term."""

    adversarial: str = Field(
        "bce",
        description="bce, least_squares, or an entry point 'asyndgan.adversarial_losses'",
    )
    adversarial_weight: Weight = Field(1.0, description="of the adversarial term")
    paired_l1: Weight = Field(
        0.0,
        description="L1 to the real image of the same mask. Its gradient gives real pixels away to "
        "a coordinator that paints what it likes; a site's policy may forbid it",
    )
    segmentation: Weight = Field(
        0.0, description="cross-entropy of the segmentation output of discriminators that have one"
    )

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not any(value for name, value in self if name != "adversarial"):
            raise ValueError("every weight is 0, so sites would ask for nothing; set one above 0")
        return self


@final
class OptimiserSection(Section):
    """Adam, for the generator and the discriminators."""

    generator_rate: Rate = Field(2e-4, description="learning rate of the generator")
    discriminator_rate: Rate = Field(2e-4, description="learning rate of the discriminators")
    beta1: float = Field(0.5, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.999, gt=0, lt=1, description="decay of the second moment")
    decay_from: float = Field(
        0.5, ge=0, le=1, description="part of the steps after which rates fall linearly to zero"
    )


@final
class TrainingSection(Section):
    """The training loop."""

    steps: int = Field(4000, ge=1, le=10_000_000, description="updates of the generator")
    batch: int = Field(4, ge=1, le=1024, description="images a site and step")
    flip: bool = Field(True, description="sites mirror images and masks left to right at random")
    move: bool = Field(
        False,
        description="sites turn, scale and shift images with their masks at random, by up to 15 "
        "degrees, 15 % and 5 %: neither network then sees a patient's image twice; labels of a "
        "single pixel may get lost",
    )
    rare_first: bool = Field(
        False,
        description="sites draw cases whose labels, or sizes of a label, few others have more "
        "often; else each case once in every pass",
    )
    hold_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="part of each site's patients that it keeps out of the training, so that "
        "'asyndgan evaluate' can judge on them and choose among recipes",
    )
    hold_out_seed: int = Field(
        0, ge=0, lt=2**31, description="of the choice of these patients; each makes another one"
    )
    chunk: int = Field(
        64, ge=1, le=65536, description="images painted at once; beyond it, painted twice"
    )
    ema: float = Field(
        0.995, ge=0, lt=1, description="decay of the averaged generator, which paints in the end"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the networks' arithmetic; weights and losses stay float32"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of every random draw")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    sample_every: int = Field(250, ge=1, description="steps between sample grids")


@final
class WireSection(Section):
    """How images and feedback are coded on the wire."""

    images: Literal["float32", "float16", "uint8"] = Field(
        "uint8", description="coding of synthetic images; sites code real ones the same way"
    )
    feedback: Literal["float32", "float16", "int8", "int4"] = Field(
        "int4", description="coding of the gradients that sites send back"
    )
    zstd: int = Field(1, ge=1, le=19, description="compression level of every array")


@final
class MasksSection(Section):
    """Which masks images are painted from, and whether the coordinator keeps them."""

    source: Literal["own", "given"] = Field(
        "own",
        description="own: those of a site's own cases; given: of a folder that every site has, "
        "public or painted by a generator of masks, so that no patient's mask leaves",
    )
    release: bool | Literal["where_allowed"] = Field(
        False,
        description="the coordinator keeps them, so that images can be generated after the run; "
        "where_allowed: those of sites whose policies allow it, and the others take part as well",
    )


@final
class PrivacySection(Section):
    """Differential privacy at the sites; it protects whether a patient takes part."""

    kind: Literal["none", "discriminator", "feedback"] = Field(
        "none",
        description="discriminator: trained by DP-SGD, so that feedback is made from what is "
        "private already; feedback: each answer is clipped and noised",
    )
    noise: float = Field(
        1.0, gt=0, le=1000, description="standard deviation, in units of what one patient changes"
    )
    clip: float = Field(
        1.0, gt=0, le=1e6, description="longest that a patient's gradient, or an answer, may be"
    )
    patients: int = Field(
        16,
        ge=1,
        le=65536,
        description="discriminator: expected number of patients that an update looks at, each "
        "drawn by itself",
    )
    updates: int = Field(
        1, ge=1, le=1000, description="discriminator: its updates an answer, each of them charged"
    )
    multiplicity: int = Field(
        1,
        ge=1,
        le=64,
        description="discriminator: disturbed copies of a patient's image that are averaged before "
        "clipping; charged once",
    )
    conditions: Literal["public", "unprotected"] = Field(
        "public",
        description="what synthetic images are painted from: public, drawn without a look at the "
        "patients (classes alike, or masks that are given); or unprotected, the patients' own "
        "masks, in the clear",
    )


@final
class IntegritySection(Section):
    """The coordinator's defences against sites whose feedback would spoil the generator."""

    bound: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="how many times the median length of all sites' feedback one may be; longer is "
        "shortened; 0: any",
    )
    alarm: float = Field(
        10.0, ge=1, description="times the median length from which on a site is reported"
    )


@final
class SelectionSection(Section):
    """Which checkpoint's averaged generator is the result of a run."""

    kind: Literal["last", "measured", "nearest"] = Field(
        "last",
        description="last: that of the last step; measured: that, too, and at each checkpoint the "
        "distance of its images from the real ones is reported, by moments of their features that "
        "each site sends once; nearest: that of the checkpoint with the least distance",
    )
    clip: float = Field(
        12.0,
        ge=0,
        description="longest that one image's features may be in these moments (they are 7 to 15 "
        "long); 0: any",
    )
    window: int = Field(16, ge=1, description="steps before a checkpoint whose images are compared")

    @property
    def compares(self) -> bool:
        """Whether sites send moments."""
        return self.kind != "last"


@final
class SharesSection(Section):
    """How the sites' feedback is weighted."""

    by: Literal["site", "modality", "odds"] = Field(
        "site",
        description="site: by its cases, in all that it judges; modality: by its cases among those "
        "who hold the same, so that what few sites have is not drowned; odds: every site judges "
        "every site's images, and the odds of all make the mixture's discriminator (UA-GAN), for "
        "sites that hardly overlap; masks then go to the other sites",
    )
    sites: int = Field(
        8, ge=1, le=1024, description="odds: most sites that judge each other's images"
    )
    most: float | None = Field(
        None,
        gt=0,
        le=1,
        description="what one site counts for at most, whatever number of cases it declares "
        f"(integrity.bound does not see shares); leave out: {LARGEST_SHARE} of three sites or more",
    )

    @property
    def sends_odds(self) -> bool:
        """Whether every site judges every site's images, and sends odds."""
        return self.by == "odds"

    def most_of(self, sites: int) -> float:
        """What one of this many sites counts for at most; of two neither is the odd one out."""
        if self.most is not None:
            return self.most
        return LARGEST_SHARE if sites > 2 else 1.0


@final
class RemindingSection(Section):
    """How the generator retains what it learned from sites that are away."""

    weight: Weight = Field(
        0.0,
        description="L1 between what the generator paints of their masks and what it painted when "
        "they were last there; 0: nothing. Needs masks that the coordinator may keep",
    )


@final
class QuorumSection(Section):
    """How many sites must answer for a step to count, and how long to wait for them."""

    least: float = Field(
        0.5, gt=0, le=1, description="part of the sites that must answer for a step to count"
    )
    wait_s: float = Field(60.0, gt=0, le=86400, description="seconds to wait for an answer")
    patience_s: float = Field(
        600.0,
        ge=0,
        le=604800,
        description="seconds to wait for a quorum, or for a step that one answers, before the run "
        "stops",
    )


@final
class PresenceSection(Section):
    """A range of steps in which a site takes part."""

    site: Name
    first: int = Field(0, ge=0, description="the first of them")
    last: int | None = Field(None, ge=0, description="the last of them; leave out: to the end")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"{self.site} leaves after step {self.last}, before its first one")
        return self


@final
class Recipe(Section):
    """What is trained and how."""

    name: Title = Field("unnamed", description="shown in logs and reports")
    image: ImageSection = ImageSection()
    condition: ConditionSection = ConditionSection()
    generator: GeneratorSection = GeneratorSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    site_discriminators: dict[Name, DiscriminatorSection] = Field(
        {}, max_length=64, description="a discriminator of its own for one site, by the site's name"
    )
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    training: TrainingSection = TrainingSection()
    wire: WireSection = WireSection()
    masks: MasksSection = MasksSection()
    selection: SelectionSection = SelectionSection()
    privacy: PrivacySection = PrivacySection()
    integrity: IntegritySection = IntegritySection()
    shares: SharesSection = SharesSection()
    reminding: RemindingSection = RemindingSection()
    quorum: QuorumSection = QuorumSection()
    timeline: tuple[PresenceSection, ...] = Field(
        (),
        max_length=1024,
        description="who takes part when; a site may be named several times, and one that is not "
        "named always does",
    )

    @model_validator(mode="before")
    @classmethod
    def _own_discriminators_are_like_the_others(cls, tables: Any) -> Any:
        """Passes the kind, and what hides patients, on to the sites' own discriminators."""
        try:
            judge = tables["discriminator"]
            kept = {key: judge[key] for key in TAKEN_OVER if key in judge}
            own = {site: kept | table for site, table in tables["site_discriminators"].items()}
        except (AttributeError, KeyError, TypeError):
            return tables  # nothing to pass on, or a fault that later validation reports
        return {**tables, "site_discriminators": own}

    def __repr_args__(self) -> list[tuple[str, Any]]:
        """What a notebook shows of a recipe; `to_toml` tells all."""
        return [
            ("name", self.name),
            ("image.size", self.image.size),
            ("generator.kind", self.generator.kind),
            ("training.steps", self.training.steps),
        ]

    def takes_part(self, site: str, step: int) -> bool:
        """Whether a site takes part in a step, according to the timeline."""
        named = [part for part in self.timeline if part.site == site]
        return not named or any(
            part.first <= step and (part.last is None or step <= part.last) for part in named
        )

    def presence_of(self, site: str | None) -> list[range]:
        """Ranges of steps in which a site takes part, in order; None: a site without a timeline."""
        end = self.training.steps
        named = [part for part in self.timeline if part.site == site]
        found: list[range] = [] if named else [range(end)]
        for part in sorted(named, key=lambda part: part.first):
            stop = end if part.last is None else min(part.last + 1, end)
            if found and part.first <= found[-1].stop:
                found[-1] = range(found[-1].start, max(found[-1].stop, stop))
            elif part.first < stop:
                found.append(range(part.first, stop))
        return found

    def first_empty_step(self, sites: Collection[str]) -> int | None:
        """First step in which none of these sites takes part; None if there is no such step."""
        begins = {0, *(part.last + 1 for part in self.timeline if part.last is not None)}
        return next(
            (
                step
                for step in sorted(begins)
                if step < self.training.steps and not any(self.takes_part(s, step) for s in sites)
            ),
            None,
        )

    def most_at_once(self, sites: Collection[str]) -> int:
        """Most of these sites that take part in one step."""
        begins = {0, *(part.first for part in self.timeline)}
        return max(
            sum(self.takes_part(site, step) for site in sites)
            for step in begins
            if step < self.training.steps
        )

    @property
    def pixels(self) -> int:
        """Pixels of the images of one message, in each modality."""
        rows, columns = self.image.size
        sites = self.shares.sites if self.shares.sends_odds else 1
        return self.training.batch * sites * rows * columns

    @model_validator(mode="after")
    def _messages_are_bearable(self) -> Self:
        if self.pixels > MOST_PIXELS:
            raise ValueError(
                f"a message would hold {self.pixels:,} pixels in each modality; it may hold "
                f"{MOST_PIXELS:,}. Lower training.batch, image.size or, with odds, shares.sites"
            )
        return self

    @model_validator(mode="after")
    def _discriminator_fits(self) -> Self:
        kind, layers, side = (
            self.discriminator.kind,
            self.discriminator.layers,
            min(self.image.size),
        )
        least = {"patch": 3, "patch_segmentation": 3, "dcgan": 1}.get(kind, 0)
        if side < least * 2**layers:
            raise ValueError(
                f"images of {side} pixels are too small for discriminator.layers = {layers} of "
                f"'{kind}': it takes {least * 2**layers} pixels; lower discriminator.layers"
            )
        return self

    @model_validator(mode="after")
    def _losses_fit_the_discriminator(self) -> Self:
        if self.loss.segmentation and self.discriminator.kind in UNSEGMENTING:
            raise ValueError(
                f"loss.segmentation is above 0, but discriminator.kind '{self.discriminator.kind}' "
                "has no segmentation output; take patch_segmentation, or set the weight to 0"
            )
        if self.discriminator.kind in SEGMENTING and not self.loss.segmentation:
            raise ValueError(
                f"discriminator.kind '{self.discriminator.kind}' segments, which nothing would "
                "teach it; set loss.segmentation above 0, or take 'patch' or 'dcgan'"
            )
        return self

    @model_validator(mode="after")
    def _label_maps_are_there(self) -> Self:
        needs_masks = {
            "loss.segmentation": self.loss.segmentation,
            "masks.release": self.masks.release,
        }
        for key, value in needs_masks.items():
            if value and self.condition.kind != "mask":
                remedy = (
                    "; take discriminator.kind 'patch' or 'dcgan', and set loss.segmentation to 0"
                )
                raise ValueError(
                    f"{key} needs label maps, but condition.kind is '{self.condition.kind}'"
                    f"{remedy if key == 'loss.segmentation' else ''}"
                )
        return self

    @model_validator(mode="after")
    def _generator_can_paint_it(self) -> Self:
        if self.generator.kind in ("dcgan", "masks") and self.condition.kind == "mask":
            raise ValueError(
                f"generator.kind '{self.generator.kind}' has no place for a mask; take resnet "
                "or spade"
            )
        if self.image.source == "images" and self.generator.kind == "masks":
            raise ValueError(
                "generator.kind 'masks' paints one label a place; for image.source 'images' take "
                "'dcgan' or, with a mask, 'resnet'"
            )
        between = ("dcgan", "resnet", "spade")
        of_masks = self.image.source == "masks" and self.condition.kind != "mask"
        if of_masks and self.generator.kind in between:
            raise ValueError(
                f"generator.kind '{self.generator.kind}' paints what lies between labels, by which "
                "discriminators tell it at once; for image.source 'masks' take 'masks'"
            )
        return self

    @model_validator(mode="after")
    def _mirrors_left_and_right(self) -> Self:
        if self.image.axis == "sagittal" and self.training.flip:
            raise ValueError(
                "training.flip mirrors columns, which run from front to back where image.axis is "
                "'sagittal'; set training.flip to false"
            )
        return self

    @model_validator(mode="after")
    def _generator_has_use_for_it(self) -> Self:
        useless = {
            "spade": ("position",),
            "dcgan": ("noise", "skip", "position"),
            "masks": ("noise", "skip", "position"),
        }
        for key in useless.get(self.generator.kind, ()):
            if getattr(self.generator, key):
                raise ValueError(
                    f"generator.{key} is set, but generator.kind '{self.generator.kind}' has no "
                    "use for it; take resnet, or leave it out"
                )
        unskipped = self.generator.kind == "resnet" and not self.generator.skip
        if self.condition.kind == "class" and unskipped:
            raise ValueError(
                "generator.kind 'resnet' cannot see condition.kind 'class': its norms take away "
                "what is the same everywhere in an image; set generator.skip or take 'spade'"
            )
        if self.condition.kind == "none" and not self.generator.noise + self.generator.latent:
            raise ValueError(
                "condition.kind 'none' leaves the generator nothing to paint from; "
                "set generator.noise or generator.latent above 0"
            )
        return self

    @model_validator(mode="after")
    def _masks_are_where_they_are_looked_for(self) -> Self:
        if self.image.source == "masks" and self.condition.kind != "none":
            raise ValueError(
                f"image.source is 'masks', so masks are what is painted; condition.kind "
                f"'{self.condition.kind}' would give them away. Set it to 'none'"
            )
        if self.image.source == "masks" and self.training.move:
            raise ValueError(
                "training.move turns and scales images smoothly, which masks (image.source 'masks')"
                " do not survive; set it to false"
            )
        if self.image.source == "masks" and self.image.modalities:
            raise ValueError(
                "image.modalities names what to paint, but image.source 'masks' paints every label "
                "of the sites' data; leave it empty"
            )
        if self.masks.source == "own":
            return self
        unfit = {
            f"condition.kind is '{self.condition.kind}'": self.condition.kind != "mask",
            "loss.paired_l1 compares with real images of the same mask": self.loss.paired_l1,
            "masks.release collects masks from the sites": self.masks.release,
        }
        for reason, found in unfit.items():
            if found:
                raise ValueError(
                    f"masks.source is 'given', but {reason}; set that off, or masks.source to 'own'"
                )
        return self

    @model_validator(mode="after")
    def _no_halves_under_privacy(self) -> Self:
        fitted = [key for key, own in self.discriminators.items() if own.cross_fitted]
        if fitted and self.privacy.kind == "discriminator":
            raise ValueError(
                f"{fitted[0]}.cross_fitted is true, but privacy.kind 'discriminator' bounds what "
                "each patient changes in one network; set it to false"
            )
        return self

    @model_validator(mode="after")
    def _odds_are_all_there_is(self) -> Self:
        if not self.shares.sends_odds:
            return self
        unfit = {
            "loss.adversarial is not 'bce', and its scores are no odds": (
                self.loss.adversarial != "bce"
            ),
            "loss.paired_l1 is above 0": self.loss.paired_l1,
            "loss.segmentation is above 0": self.loss.segmentation,
            "loss.adversarial_weight is not 1": self.loss.adversarial_weight != 1,
            "discriminator.cross_fitted is true": any(
                own.cross_fitted for own in self.discriminators.values()
            ),
            "privacy.kind is set": self.privacy.kind != "none",
            "integrity.bound is above 0": self.integrity.bound,
        }
        reasons = [reason for reason, found in unfit.items() if found]
        if reasons:
            raise ValueError(
                f"shares.by is 'odds', which is all that sites send, but {'; '.join(reasons)}"
            )
        return self

    @model_validator(mode="after")
    def _what_is_reminded_of_is_kept(self) -> Self:
        if self.reminding.weight and self.condition.kind == "mask" and not self.keeps_masks:
            raise ValueError(
                "reminding.weight is above 0, but the coordinator keeps no masks to remind the "
                "generator of; set masks.release to true or 'where_allowed', or masks.source to "
                "'given'"
            )
        if self.reminding.weight and self.condition.kind == "class":
            raise ValueError(
                "reminding.weight is above 0, but classes are not kept; set it to 0, or "
                "condition.kind to 'mask' or 'none'"
            )
        return self

    @model_validator(mode="after")
    def _what_is_compared_with_stays(self) -> Self:
        if self.selection.kind == "nearest" and self.timeline:
            raise ValueError(
                "selection.kind is 'nearest', which compares with the sites of the beginning, but "
                "timeline has sites come and go; set selection.kind to 'measured' or 'last'"
            )
        return self

    @property
    def keeps_masks(self) -> bool:
        """Whether the coordinator keeps label maps: released ones, or given ones for reminding."""
        nobodys = self.masks.source == "given" and self.reminding.weight > 0
        return self.condition.kind == "mask" and (bool(self.masks.release) or nobodys)

    @property
    def sends_own_masks(self) -> bool:
        """Whether patients' label maps leave the sites."""
        return self.condition.kind == "mask" and self.masks.source == "own"

    @property
    def sends_own_conditions(self) -> bool:
        """Whether patients' label maps or classes leave the sites."""
        return self.condition.kind != "none" and not self.draws_conditions

    @property
    def draws_conditions(self) -> bool:
        """Whether label maps or classes are drawn without looking at the patients."""
        public = self.privacy.kind != "none" and self.privacy.conditions == "public"
        return self.masks.source == "given" or public

    @property
    def discriminators(self) -> dict[str, DiscriminatorSection]:
        """The sections of all sites' discriminators, by key."""
        own = {f"site_discriminators.{site}": own for site, own in self.site_discriminators.items()}
        return {"discriminator": self.discriminator, **own}

    @model_validator(mode="after")
    def _private_parts_are_private(self) -> Self:
        if self.privacy.kind == "none":
            return self
        if self.sends_own_masks and self.privacy.conditions == "public":
            raise ValueError(
                "privacy.conditions is 'public', but condition.kind 'mask' sends patients' masks; "
                "set masks.source to 'given' and give every site a folder of masks, set "
                "privacy.conditions to 'unprotected' to say so, or take another condition"
            )
        judges = {own.kind for own in self.discriminators.values()}
        segments = judges & SEGMENTING
        if segments and self.privacy.kind == "discriminator":
            raise ValueError(
                f"discriminator.kind '{segments.pop()}' segments real patients, which privacy.kind "
                "'discriminator' does not cover; take 'patch' or 'dcgan', and set "
                "loss.segmentation to 0"
            )
        touched = {
            "loss.paired_l1": self.loss.paired_l1,
            "loss.segmentation": self.loss.segmentation,
            f"selection.kind '{self.selection.kind}'": self.selection.compares,
            "masks.release": self.masks.release,
        }
        for key, value in touched.items():
            if value and (self.privacy.kind == "discriminator" or not key.startswith("loss.")):
                raise ValueError(
                    f"{key} looks at real patients past privacy.kind '{self.privacy.kind}', which "
                    "would not cover it; set it to 0, or privacy.kind to 'none'"
                )
        # What one patient changes is bounded only if each image's gradient is its own.
        foreign = {
            "discriminator.kind": judges - UNSEGMENTING,
            "loss.adversarial": {self.loss.adversarial} - {"bce", "least_squares"},
        }
        for key, names in foreign.items():
            if names and self.privacy.kind == "discriminator":
                raise ValueError(
                    f"{key} '{names.pop()}' is of another package, and nobody has checked that it "
                    "mixes no patients of a batch, as privacy.kind 'discriminator' wants; take one "
                    "of this package, or privacy.kind 'feedback'"
                )
        if self.training.precision != "float32" and self.privacy.kind == "discriminator":
            raise ValueError(
                "privacy.kind 'discriminator' clips gradients in float32; set training.precision "
                "to 'float32'"
            )
        return self

    @model_validator(mode="after")
    def _own_discriminators_fit(self) -> Self:
        for site in self.site_discriminators:
            alone = self.at_site(site).model_copy(update={"site_discriminators": {}})
            tables = alone.to_tables()
            try:
                type(self).model_validate(tables)
            except ValidationError as error:
                reasons = "; ".join(
                    fault["msg"].removeprefix("Value error, ") for fault in error.errors()
                )
                key = f"site_discriminators.{site}"
                raise ValueError(
                    f"{key}: {reasons.replace('discriminator.', key + '.')}"
                ) from error
        return self

    def at_site(self, site: str) -> Self:
        """The recipe as one site trains it: with the site's own discriminator, if it has one.

        A site whose own discriminator does not segment asks for no segmentation.
        """
        own = self.site_discriminators.get(site)
        if own is None:
            return self
        loss = self.loss
        if own.kind in UNSEGMENTING:
            loss = loss.model_copy(update={"segmentation": 0.0})
        return self.model_copy(update={"discriminator": own, "loss": loss})

    @classmethod
    def from_toml(cls, text: str, overrides: Sequence[str] = ()) -> Self:
        """Reads a recipe.

        Args:
            text: a TOML document.
            overrides: each `key.of.a.field=value`, with the value in TOML (bare words are strings).

        Raises:
            RecipeError: a key or value is unknown, out of range or contradictory. The message names
                the key, the value, what is allowed and, for an unknown key, the nearest known one.
        """
        try:
            tables = parsed_toml(text)
        except ValueError as error:
            raise RecipeError(f"the recipe is not valid TOML: {error}") from error
        for override in overrides:
            _override(tables, override)
        return cls.from_tables(tables)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """Reads a recipe from nested dictionaries; raises `RecipeError` like `from_toml`."""
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            rows = known_keys(PresenceSection, "timeline.")
            known = [*cls.model_fields, *known_keys(), *rows]
            name = shown(tables.get("name", "unnamed"))
            raise RecipeError(f"recipe {name}:\n{explained(error, known)}") from error

    def to_tables(self) -> dict[str, Any]:
        """The recipe as nested dictionaries of plain values, without keys that are not set."""
        return self.model_dump(mode="json", exclude_none=True)

    def digest(self) -> str:
        """SHA-256 of the resolved recipe, in hexadecimal; equal recipes have equal digests."""
        text = json.dumps(self.to_tables(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def changes(self, other: "Recipe") -> list[str]:
        """What another recipe says differently: "training.steps is 60 and was 40"."""
        here, there = dict(_keys(self.to_tables())), dict(_keys(other.to_tables()))
        found = [
            f"{key} is {shown(there.get(key))} and was {shown(here.get(key))}"
            for key in dict.fromkeys([*here, *there])
            if here.get(key) != there.get(key)
        ]
        return found[:SHOWN_FAULTS]


def _keys(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def known_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, as a dotted path."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def explained(error: ValidationError, known: Sequence[str]) -> str:
    """One line per fault: the key, its value, what is allowed, and the nearest known key.

    At most `SHOWN_FAULTS` faults are listed; a last line counts the others.

    Args:
        error: the faults that pydantic found.
        known: existing keys, as dotted paths.
    """
    faults = error.errors()
    lines = [f"  {_explain(fault, known)}" for fault in faults[:SHOWN_FAULTS]]
    more = len(faults) - len(lines)
    return "\n".join([*lines, f"  and {more} more."] if more else lines)


def shown(value: object) -> str:
    """An untrusted value for an error message: its repr, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, value = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise RecipeError(f"'{override}' is not KEY=VALUE; write for example image.size=128.")
    for text in (value, json.dumps(value)):  # a bare word is taken as a string
        try:
            _merge(tables, parsed_toml(f"{key} = {text}"), key)
        except ValueError:
            continue
        return
    raise RecipeError(f"'{key}' is not a key; write for example image.size=128.")


def _merge(tables: dict[str, Any], extra: dict[str, Any], key: str) -> None:
    for name, value in extra.items():
        if isinstance(value, dict) and name in tables:
            if not isinstance(tables[name], dict):
                raise RecipeError(f"'{key}' goes below '{name}', which is a single value.")
            _merge(tables[name], value, key)
        else:
            tables[name] = value


def _explain(fault: Any, known: Sequence[str]) -> str:
    key = shown(".".join(str(part) for part in fault["loc"]) or "recipe")[1:-1]
    if fault["type"] == "extra_forbidden":
        nearest = [other for other in known if other.endswith(f".{key}")]
        nearest += difflib.get_close_matches(key, known, n=1, cutoff=0.3)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        return f"{key} is no key here.{hint}"
    if fault["type"] == "missing":
        return f"{key} is missing."
    allowed = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error" and not isinstance(fault["input"], (str, int, float)):
        return f"{key}: {allowed}."
    return f"{key} = {shown(fault['input'])}: {allowed}."


def _toml_lines(section: Section, prefix: str, comments: bool) -> Iterator[str]:
    tables: list[tuple[str, str, Section]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            tables.append((name, f"[{prefix}{name}]", value))
        elif isinstance(value, dict) and any(isinstance(v, Section) for v in value.values()):
            keys = {f"{name}.{_toml_key(key)}": item for key, item in value.items()}
            tables.extend((key, f"[{prefix}{key}]", item) for key, item in keys.items())
        elif isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
            tables.extend((name, f"[[{prefix}{name}]]", item) for item in value)
        else:
            shown = "" if value is None else _toml_value(value)
            line = f"{name} = {shown}" if value is not None else f"# {name} ="
            note = _comment(field) if comments else ""
            yield f"{line}  # {note}" if note else line
    for name, heading, table in tables:
        yield ""
        if comments and type(table).__doc__:
            yield f"# {str(type(table).__doc__).splitlines()[0]}"
        yield heading
        yield from _toml_lines(table, f"{prefix}{name}.", comments)


def _comment(field: FieldInfo) -> str:
    choices = [repr(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    note = field.description or ""
    unsaid = [choice for choice in choices if choice.strip("'") not in note]
    return note + (f" ({' | '.join(choices)})" if unsaid else "")


def _toml_key(key: str) -> str:
    plain = key.replace("_", "").replace("-", "")
    return key if plain.isalnum() and plain.isascii() else _toml_string(key)


def _toml_string(text: str) -> str:
    # TOML does not allow surrogate pairs; what a terminal would act on is escaped, since people
    # have recipes of others printed.
    whole = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in whole)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    return repr(value)
