"""What the keys of a recipe demand of each other: one table, each rule with a remedy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from asyndgan.recipe.sections import SEGMENTING, UNSEGMENTING

if TYPE_CHECKING:
    from asyndgan.recipe.recipe import Recipe

MOST_PIXELS: Final = 2**23  # of a message and modality, such as 32 images of 512x512


@final
@dataclass(frozen=True)
class Rule:
    """A combination of keys that no recipe may have."""

    violated: Callable[["Recipe"], object]  # whether a recipe has it
    fault: str  # message, as a format string: `r` is the recipe, `set` the remedy
    remedy: tuple[str, ...]  # overrides after which the rule holds
    of: str = ""  # the only kind of case that it is for; empty: both

    def told(self, recipe: "Recipe") -> str:
        """The message for a recipe that violates the rule, with the remedy."""
        remedy = " and ".join(part.replace("=", " to ") for part in self.remedy)
        return self.fault.format(r=recipe, set=f"set {remedy}")


def violations(recipe: "Recipe") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Faults and remedies by the rules that a recipe violates."""
    for rule in RULES:
        if rule.of in ("", recipe.kind.case) and rule.violated(recipe):
            yield rule.told(recipe), rule.remedy


_PAST = (
    "looks at real patients past privacy.kind '{r.privacy.kind}', which would not cover it; {set}, "
    "or privacy.kind to 'none'"
)
_FOREIGN = (
    "is of another package, and nobody has checked that it mixes no patients of a batch, as "
    "privacy.kind 'discriminator' wants; {set} or another of this package"
)  # what one patient changes is bounded only if each image's gradient is its own

_NO_TABLE = (
    "is for records, and the recipe has no [table]; have 'asyndgan plan' write one, or {set}"
)
_PAINTERS = ("resnet", "topdown", "dcgan", "masks")

# fmt: off
RULES: Final = (
    Rule(lambda r: not (r.loss.adversarial_weight or r.loss.paired_l1 or r.loss.segmentation),
         "every weight is 0, so sites would ask for nothing; {set} or another above 0",
         ("loss.adversarial_weight=1",)),
    Rule(lambda r: r.pixels > MOST_PIXELS,
         "a message would hold {r.pixels:,} pixels in each modality; it may hold "
         f"{MOST_PIXELS:,}. Lower image.size, or {{set}}", ("training.batch=1",)),
    Rule(lambda r: min(r.space) < r.discriminator.least_side,
         "{r.sides} pixels are too small for discriminator.layers = "
         "{r.discriminator.layers} of '{r.discriminator.kind}': each side takes "
         "{r.discriminator.least_side} pixels (masks: twice as many); lower discriminator.layers",
         ("discriminator.layers=1",)),
    Rule(lambda r: r.image.whole and r.discriminator.kind.startswith("projected"),
         "discriminator.kind '{r.discriminator.kind}' judges by a network that knows pictures, and "
         "image.size has three sides; take 'patch_segmentation', or {set}",
         ("discriminator.kind='patch'", "loss.segmentation=0")),
    Rule(lambda r: r.loss.segmentation and r.discriminator.kind in UNSEGMENTING,
         "loss.segmentation is above 0, but discriminator.kind '{r.discriminator.kind}' has no "
         "segmentation output; take 'patch_segmentation', or {set}", ("loss.segmentation=0",)),
    Rule(lambda r: r.discriminator.kind in SEGMENTING and not r.loss.segmentation,
         "discriminator.kind '{r.discriminator.kind}' segments, which nothing would teach it; set "
         "loss.segmentation above 0, or discriminator.kind to 'patch' or 'dcgan'",
         ("discriminator.kind='patch'",)),
    Rule(lambda r: r.loss.segmentation and r.condition.kind != "mask",
         "loss.segmentation needs label maps, but condition.kind is '{r.condition.kind}'; {set} "
         "or 'dcgan'", ("loss.segmentation=0", "discriminator.kind='patch'")),
    Rule(lambda r: r.masks.release and r.condition.kind != "mask",
         "masks.release needs label maps, but condition.kind is '{r.condition.kind}'; {set}",
         ("masks.release=false",)),
    Rule(lambda r: r.image.source == "images" and r.condition.kind == "mask"
         and r.generator.kind in ("dcgan", "masks"),
         "generator.kind '{r.generator.kind}' has no place for a mask; {set}",
         ("generator.kind='topdown'",)),
    Rule(lambda r: r.image.source == "images" and r.condition.kind != "mask"
         and r.generator.kind == "masks",
         "generator.kind 'masks' paints shares of labels; for image.source 'images' take 'dcgan' "
         "or, with a mask, 'topdown'", ("generator.kind='dcgan'",)),
    Rule(lambda r: r.image.source == "masks" and r.condition.kind != "mask"
         and r.generator.kind in ("dcgan", "resnet", "topdown"),
         "generator.kind '{r.generator.kind}' paints no shares of labels, which sum to one, by "
         "which discriminators tell it at once; for image.source 'masks' take 'masks'",
         ("generator.kind='masks'",)),
    Rule(lambda r: r.image.axis == "sagittal" and r.training.flip,
         "training.flip mirrors columns, which run from front to back where image.axis is "
         "'sagittal'; {set}", ("training.flip=false",)),
    Rule(lambda r: r.generator.kind == "topdown"
         and any(side % 2 ** (r.generator.levels - 1) or side < 2**r.generator.levels
                 for side in r.image.size),
         "image.size {r.sides} cannot be halved to 2 pixels or more for generator.levels = "
         "{r.generator.levels}; {set}", ("generator.levels=4",), "image"),
    Rule(lambda r: r.generator.diversity
         and (not r.generator.latent or r.table or r.generator.kind == "resnet"),
         "generator.diversity compares two images of one mask, which differ by generator.latent; "
         "set generator.latent above 0 (not for 'resnet'), or {set}", ("generator.diversity=0",)),
    Rule(lambda r: r.condition.kind != "mask" and r.generator.kind == "resnet",
         "generator.kind 'resnet' paints from a mask alone, and condition.kind is "
         "'{r.condition.kind}'; {set}", ("generator.kind='topdown'",)),
    Rule(lambda r: r.condition.kind == "none" and not r.generator.noise + r.generator.latent,
         "condition.kind 'none' leaves the generator nothing to paint from; set generator.latent "
         "above 0", ("generator.latent=16",)),
    Rule(lambda r: r.image.source == "masks" and r.condition.kind != "none",
         "image.source is 'masks', so the generator paints masks; condition.kind "
         "'{r.condition.kind}' would give them away; {set}", ("condition.kind='none'",), "image"),
    Rule(lambda r: r.image.source == "masks" and r.image.modalities,
         "image.modalities names what to paint, but image.source 'masks' paints every label of the "
         "sites' data; leave it empty", ("image.modalities=[]",)),
    Rule(lambda r: r.given_masks and r.loss.paired_l1,
         "masks.source is 'given', but loss.paired_l1 compares with real images of the same mask; "
         "{set}, or masks.source to 'own'", ("loss.paired_l1=0",)),
    Rule(lambda r: r.given_masks and r.masks.release,
         "masks.source is 'given', but masks.release collects masks from the sites; {set}, or "
         "masks.source to 'own'", ("masks.release=false",)),
    Rule(lambda r: r.privacy.kind != "none" and r.sends_own_masks
         and r.privacy.conditions == "public",
         "privacy.conditions is 'public', but condition.kind 'mask' sends patients' masks; "
         "set masks.source to 'given', set "
         "privacy.conditions to 'unprotected' to say so, or take another condition",
         ("privacy.conditions='unprotected'",)),
    Rule(lambda r: r.privacy.kind == "discriminator" and r.discriminator.kind in SEGMENTING,
         "discriminator.kind '{r.discriminator.kind}' segments real patients, which privacy.kind "
         "'discriminator' does not cover; {set} or 'dcgan'",
         ("loss.segmentation=0", "discriminator.kind='patch'")),
    Rule(lambda r: r.privacy.kind == "discriminator" and r.discriminator.cross_fitted,
         "discriminator.cross_fitted is true, but privacy.kind 'discriminator' bounds what each "
         "patient changes in one network; {set}", ("discriminator.cross_fitted=false",)),
    Rule(lambda r: r.privacy.kind == "discriminator"
         and (r.loss.paired_l1 or r.loss.segmentation or r.loss.mismatch
              or r.loss.gradient_penalty),
         f"a term of [loss] {_PAST}",
         ("loss.paired_l1=0", "loss.segmentation=0", "loss.mismatch=0",
          "loss.gradient_penalty=0")),
    Rule(lambda r: r.loss.mismatch and r.training.batch == 1,
         "loss.mismatch tells an image the mask of another one of the batch, but training.batch "
         "is 1; {set}, or training.batch to 2", ("loss.mismatch=0",)),
    Rule(lambda r: r.privacy.kind != "none" and r.masks.release,
         f"masks.release {_PAST}", ("masks.release=false",)),
    Rule(lambda r: r.privacy.kind == "discriminator"
         and r.discriminator.kind not in SEGMENTING | UNSEGMENTING,
         f"discriminator.kind '{{r.discriminator.kind}}' {_FOREIGN}",
         ("discriminator.kind='patch'",)),
    Rule(lambda r: r.privacy.kind == "discriminator"
         and r.loss.adversarial not in ("bce", "least_squares", "hinge"),
         f"loss.adversarial '{{r.loss.adversarial}}' {_FOREIGN}", ("loss.adversarial='bce'",)),
    Rule(lambda r: r.generator.kind in _PAINTERS or r.condition.kind != "class"
         or r.discriminator.kind in SEGMENTING | UNSEGMENTING - {"rows"}
         or r.image.source == "masks" or r.training.flip or r.training.move
         or r.generator.noise != 1 or not r.generator.latent,
         "a [table] has records of a class, which no mirror or move fits, and is painted from one "
         "channel of noise and latent numbers; {set}, as 'asyndgan plan' does",
         ("generator.kind='rows'", "generator.noise=1", "generator.latent=64",
          "discriminator.kind='rows'", "loss.segmentation=0", "condition.kind='class'",
          "image.source='images'", "training.flip=false", "training.move=false"), "record"),
    Rule(lambda r: r.generator.kind == "rows",
         f"generator.kind 'rows' {_NO_TABLE}", ("generator.kind='topdown'",), "image"),
    Rule(lambda r: r.discriminator.kind == "rows",
         f"discriminator.kind 'rows' {_NO_TABLE}", ("discriminator.kind='patch'",), "image"),
    Rule(lambda r: r.table and r.table.source == "fingerprints" and r.privacy.kind != "none",
         "privacy.kind is '{r.privacy.kind}', but the [table] comes from fingerprints of records, "
         "which no epsilon covers; declare knots and shares in schema.json and plan anew, or {set}",
         ("privacy.kind='none'",)),
    Rule(lambda r: r.training.rare_first,
         "training.rare_first is retired for images, with what was measured in docs/retired.md; "
         "{set}", ("training.rare_first=false",), "image"),
    Rule(lambda r: {*r.discriminator.augment}.difference(r.kind.augmented),
         "discriminator.augment: records take 'dropout', and images 'shift' and 'window'; {set}",
         ("discriminator.augment=[]",)),
    Rule(lambda r: r.privacy.kind == "discriminator" and r.training.precision == "bfloat16",
         "privacy.kind 'discriminator' clips gradients in float32; {set}",
         ("training.precision='float32'",)),
)
# fmt: on
