"""The tables of a recipe: their keys, what each may be, and what it is if not given."""

from typing import Annotated, Final, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from asyndgan.recipe.toml import lines_of

Weight = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=0.1)]

LABELS_LIMIT: Final = 1024
"""Labels are channels of the generator's input, so nobody may ask for any number of them."""
LARGEST_SHARE: Final = 0.75
"""What one of three or more sites counts for at most, if the recipe does not say: three times what
all others do together. No site of the data sets that results are reported on has that much."""
SEGMENTING: Final = frozenset({"patch_segmentation"})
UNSEGMENTING: Final = frozenset({"patch", "dcgan"})
"""Kinds of this package's discriminators; of another package's nobody knows."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_toml(self, *, comments: bool = True) -> str:
        """A TOML document that parses back to an equal value; with `comments`, one on each key."""
        return "\n".join(lines_of(self, comments)) + "\n"


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

    @property
    def least_side(self) -> int:
        """Fewest rows and columns that an image may have; of another package's nobody knows."""
        return {"patch": 3, "patch_segmentation": 3, "dcgan": 1}.get(self.kind, 0) * 2**self.layers


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
