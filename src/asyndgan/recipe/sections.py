"""The tables of a recipe: their keys, what each may be, and what it is if not given."""

import re
from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, Literal, Self, final, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from asyndgan.recipe.toml import lines_of
from asyndgan.texts import Name

Weight = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=0.1)]

LABELS_LIMIT: Final = 1024  # bounded, as labels are channels of the generator's input
LARGEST_SHARE: Final = 0.75
"""Default bound on the share of one of three or more sites: three times all others together. No
site of the measured data sets has that much."""
SEGMENTING: Final = frozenset({"patch_segmentation", "projected_segmentation"})
UNSEGMENTING: Final = frozenset({"patch", "projected", "dcgan", "masks", "rows"})
"""Kinds of this package's discriminators that do not segment; others are unknown."""
NORMLESS: Final = frozenset({"dcgan", "masks", "rows"})  # kinds here without norms


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_in_words(cls, value: object, info: ValidationInfo) -> object:
        """Takes 48x64, 1,1 and T1,T2 for lists where a key has a list."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        lists = [each for each in _either(annotation) if get_origin(each) is tuple]
        if lists and isinstance(value, list):
            return tuple(value)  # which strict types want
        if not lists or not isinstance(value, str):
            return value
        pixels = re.fullmatch(r"[\d.]+(\s*x\s*[\d.]+)+", value)
        parts = [part.strip() for part in value.split("x" if pixels else ",")]
        one = len(parts) == 1 and Ellipsis not in get_args(lists[0])
        return value if one or not value else parts

    def to_toml(
        self, *, comments: bool = True, reasons: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """TOML that parses back to an equal value, with a comment on each key, or `reasons`."""
        return "\n".join(lines_of(self, comments, reasons=reasons)) + "\n"


def _either(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation: of `tuple[int, int] | None`, both."""
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


@final
class ConditionSection(Section):
    """The condition that the generator paints from."""

    kind: Literal["mask", "class", "none"] = Field(
        "mask",
        description="what an image is painted from: mask, a label map; class, one number for "
        "each image; none, noise alone",
    )


@final
class GeneratorSection(Section):
    """The generator, the network at the coordinator."""

    kind: str = Field(
        "topdown",
        description="network: topdown, from coarse to fine, as in 'default'; resnet, which "
        "translates a mask and paints one image of it, as in 'paper'; dcgan, for classes or noise "
        "alone; masks, for image.source 'masks'; rows, for a table; or an entry point "
        "'asyndgan.generators'",
    )
    width: int = Field(64, ge=4, le=512, description="filters of the first layer")
    blocks: int = Field(
        9, ge=1, le=32, description="resnet: residual blocks at the lowest resolution"
    )
    levels: int = Field(
        4, ge=2, le=6,
        description="topdown: sizes at which it paints, each twice the one before. Use 5 for "
        "images of 128 pixels and 6 for 256, whose largest size then takes less time",
    )  # fmt: skip
    soften: float = Field(
        0.0, ge=0, le=8,
        description="topdown: pixels (standard deviation of a Gaussian) by which the mask is "
        "blurred where it modulates. Use 1 when outlines of labels show in the images as lines",
    )  # fmt: skip
    noise: int = Field(
        0, ge=0, le=256, description="channels of noise beside the condition; 0: none"
    )
    style: int = Field(
        0, ge=0, le=64,
        description="length of the code of each site's look; 0: one look for all. Sites that lack "
        "a modality share a code. Use it when sites have different scanners",
    )  # fmt: skip
    latent: int = Field(
        0, ge=0, le=256,
        description="length of the random code of each image; 0: none. Use it when whole images "
        "differ, for example in brightness",
    )  # fmt: skip
    diversity: float = Field(
        0.0, ge=0, le=10,
        description="weight of a term at the coordinator that asks two images of one mask to "
        "differ; needs latent. Use it when images of different masks look alike. Steps take longer",
    )  # fmt: skip
    diversity_bound: float = Field(
        0.0, ge=0, le=1,
        description="mean difference of two images of one mask, of intensities from -1 to 1, from "
        "which on diversity asks for no more; 0: it always does. Use 0.08 when corners turn white",
    )  # fmt: skip
    deform: float = Field(
        0.0, ge=0, le=10,
        description="pixels by which the masks that it paints from are deformed, while sites judge "
        "and sets label by the masks as they are. Use it when borders in patients' images are "
        "less clear than those in synthetic ones",
    )  # fmt: skip
    options: dict[str, str | int | float | bool] = Field(
        {}, description="settings of a generator of another package"
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
        description="network: patch judges patches; projected also judges by the features of a "
        "pretrained network, so that images have anatomy; patch_segmentation and "
        "projected_segmentation also segment, use them when labels are small; dcgan judges the "
        "image as a whole, use it for classes or noise alone; masks, for image.source 'masks'; "
        "rows, for a table; or an entry point 'asyndgan.discriminators'",
    )
    width: int = Field(64, ge=4, le=512, description="filters of the first layer")
    layers: int = Field(
        3, ge=1, le=6,
        description="how often the resolution is halved; with 3 a patch has 70 x 70 pixels",
    )  # fmt: skip
    norm: Literal["instance", "layer"] = Field(
        "instance",
        description="patch and patch_segmentation: instance, each channel's features are "
        "normalised on their own; layer, those of all channels together, so brightness counts "
        "more. Use layer with generator.diversity, which otherwise varies brightness too much",
    )
    augment: tuple[Literal["shift", "window", "dropout"], ...] = Field(
        (),
        description="random changes of real and synthetic images before they are judged: shift; "
        "window, which judges half of each side, or the whole image at half its size; of records "
        "dropout. Use shift and dropout when a site has few patients, window above 128 pixels",
    )  # fmt: skip
    cross_fitted: bool = Field(
        False,
        description="each site trains two networks, each on half of its patients. On synthetic "
        "images the network that finds them less real decides, on masks the mean of both. Use it "
        "with patients' data: answers then reveal less of who took part. It doubles a site's work",
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="settings of a discriminator of another package"
    )

    @field_validator("augment")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each change once")
        return value

    @property
    def least_side(self) -> int:
        """Fewest rows and columns of an image; 0 for discriminators of other packages."""
        patches = self.kind in SEGMENTING | UNSEGMENTING - NORMLESS
        least = (3 if patches else int(self.kind in ("dcgan", "masks"))) * 2**self.layers
        return 2 * least if "window" in self.augment else least


@final
class LossSection(Section):
    """Weights of the terms of a site's loss on synthetic images; zero disables a term."""

    adversarial: str = Field(
        "bce",
        description="loss by which discriminators tell real from synthetic images: bce, "
        "least_squares, hinge, or an entry point 'asyndgan.adversarial_losses'",
    )
    adversarial_weight: Weight = Field(1.0, description="weight of the adversarial term")
    paired_l1: Weight = Field(
        0.0,
        description="weight of the L1 distance to the real image of the same mask. Never use it "
        "with patients' data: its gradient reveals real pixels, and the default policy refuses it",
    )
    segmentation: Weight = Field(
        0.0,
        description="weight of the cross-entropy between the mask and what the discriminator "
        "segments; needs a kind that segments",
    )
    as_real: bool = Field(
        False,
        description="the segmentation term asks for no label to be found more easily than a site's "
        "discriminator finds it in real images, so that lesions do not become too clear",
    )
    mismatch: Weight = Field(
        0.0,
        description="weight, in the discriminators' loss, of real images that are told the mask of "
        "another case and count as synthetic, so that images have to fit the whole mask",
    )
    gradient_penalty: Weight = Field(
        0.0,
        description="weight, in the discriminators' loss, of the squared gradient of realness with "
        "respect to real images. Use 1 when shapes of masks that nothing moves come slowly",
    )


@final
class OptimiserSection(Section):
    """Adam, for the generator and the discriminators."""

    generator_rate: Rate = Field(2e-4, description="learning rate of the generator")
    discriminator_rate: Rate = Field(2e-4, description="learning rate of the discriminators")
    decay_from: float = Field(
        0.5, ge=0, le=1,
        description="fraction of the steps after which learning rates fall linearly to zero",
    )  # fmt: skip


@final
class TrainingSection(Section):
    """The training loop."""

    steps: int = Field(4000, ge=1, le=10_000_000, description="updates of the generator")
    batch: int = Field(4, ge=1, le=1024, description="images for each site and step")
    flip: bool = Field(
        True,
        description="sites mirror images and masks left to right at random. Set it to false when "
        "labels tell left from right",
    )
    move: bool = Field(
        False,
        description="sites rotate (up to 15 degrees), scale (15 %) and shift (5 %) images and "
        "masks at random. Use it with patients' data: no network sees the same image twice. "
        "Labels of a single pixel may get lost",
    )
    rare_first: bool = Field(
        False,
        description="tables alone: sites draw records of rare classes up to four times as often. "
        "False: each record once per pass",
    )
    hold_out: float = Field(
        0.0, ge=0, lt=1,
        description="fraction of each site's cases, in whole patients, kept out of training. Use "
        "it to choose among recipes: 'asyndgan evaluate' scores on them",
    )  # fmt: skip
    hold_out_seed: int = Field(
        0, ge=0, lt=2**31,
        description="seed of the choice of held-out patients: seeds 0 to 4 with a hold_out of 0.2 "
        "hold each patient out once. Under a policy, a secret of the site decides too",
    )  # fmt: skip
    chunk: int = Field(
        8, ge=1, le=65536,
        description="most images that the coordinator paints at once. More are painted twice, "
        "which needs less memory and more time. Use a smaller number when memory runs out",
    )  # fmt: skip
    ema: float = Field(
        0.995, ge=0, lt=1,
        description="decay, per step, of the moving average of the generator's weights. The "
        "averaged generator is the result",
    )  # fmt: skip
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of the networks' arithmetic; weights and losses stay float32. "
        "auto: each party times its own networks before the first step and takes the faster "
        "format. With privacy.kind 'discriminator' it is float32",
    )
    seed: int = Field(
        0, ge=0, lt=2**31,
        description="seed of all random draws, except those that a site makes by its own secret. "
        "Change it to train another generator of the same recipe",
    )  # fmt: skip
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    sample_every: int = Field(250, ge=1, description="steps between sample grids")


@final
class WireSection(Section):
    """How images and feedback are coded on the wire."""

    images: Literal["float32", "float16", "uint8"] = Field(
        "uint8", description="coding of synthetic images; sites code real images in the same way"
    )
    feedback: Literal["float32", "float16", "int8", "int4"] = Field(
        "int4", description="coding of feedback, the gradients that sites send back"
    )


@final
class MasksSection(Section):
    """Which masks images are painted from, and whether the coordinator keeps them."""

    source: Literal["own", "given"] = Field(
        "own",
        description="masks to paint from: own, those of each site's patients; given, those of a "
        "folder of the coordinator, or of a generator that the sites teach first. Use given when "
        "no patient's mask may leave a site",
    )
    release: bool = Field(
        False,
        description="true: the coordinator keeps the patients' masks, so that 'asyndgan "
        "generate' can paint from them; a site whose policy forbids it takes no part",
    )
    unlabelled: bool = Field(
        False,
        description="true: label 0 means that nobody labelled a pixel, as void in street scenes. "
        "Images are painted there too, but no segmentation is trained or scored on it",
    )


@final
class PrivacySection(Section):
    """Differential privacy at the sites; it protects whether a patient takes part."""

    kind: Literal["none", "discriminator"] = Field(
        "none", description="none; discriminator: discriminators are trained by DP-SGD"
    )
    noise: float = Field(
        1.0, gt=0, le=1000,
        description="standard deviation of the noise, as a multiple of the most that one patient "
        "can change",
    )  # fmt: skip
    clip: float = Field(
        1.0, gt=0, le=1e6,
        description="greatest length (L2 norm) of a patient's gradient; longer ones are shortened",
    )  # fmt: skip
    patients: int = Field(
        16, ge=1, le=65536,
        description="expected number of patients in an update, each drawn independently",
    )  # fmt: skip
    updates: int = Field(
        1, ge=1, le=1000,
        description="updates before each answer; each one spends privacy",
    )  # fmt: skip
    conditions: Literal["public", "unprotected"] = Field(
        "public",
        description="what images are painted from: public, classes or given masks, drawn "
        "without using the patients; unprotected, the patients' own masks, which leave without "
        "noise and are not covered by epsilon",
    )


@final
class IntegritySection(Section):
    """The coordinator's defences against sites whose feedback would spoil the generator."""

    bound: float = Field(
        0.0, ge=0, le=1000,
        description="longest feedback, as a multiple of the median length of all sites; longer "
        "feedback is shortened; 0: no bound. Use 2 when a site may be malicious. It needs three "
        "sites",
    )  # fmt: skip


@final
class SharesSection(Section):
    """How the sites' feedback is weighted."""

    by: Literal["site", "modality"] = Field(
        "site",
        description="weight of a site's feedback. site: its fraction of all cases; modality: its "
        "fraction of the cases with that modality, use it when few sites hold a modality",
    )
    most: float | None = Field(
        None, gt=0, le=1,
        description="largest share of one site, from 0 to 1, whatever number of cases it "
        f"declares. Left out: {LARGEST_SHARE} with three or more sites, otherwise no bound. Use 1 "
        "when one site really holds more",
    )  # fmt: skip

    def most_of(self, sites: int) -> float:
        """Largest share of one of this many sites; two sites have no bound by default."""
        if self.most is not None:
            return self.most
        return LARGEST_SHARE if sites > 2 else 1.0


@final
class QuorumSection(Section):
    """How many sites must answer for a step to update the generator, and how long to wait."""

    least: float = Field(
        0.5, gt=0, le=1,
        description="fraction of the sites that must answer for a step to update the generator",
    )  # fmt: skip
    wait_s: float = Field(60.0, gt=0, le=86400, description="seconds to wait for a site's answer")
    patience_s: float = Field(
        600.0, ge=0, le=604800,
        description="seconds without a quorum, or without any answer, after which the run stops "
        "with a checkpoint",
    )  # fmt: skip


@final
class PresenceSection(Section):
    """A range of steps in which a site takes part."""

    site: Name = Field(description="name of the site")
    first: int = Field(
        0, ge=0, description="first step in which the site takes part, counted from 0"
    )
    last: int | None = Field(
        None,
        ge=0,
        description="last step in which the site takes part. Left out: to the end of the run",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"{self.site} leaves after step {self.last}, before its first one")
        return self
