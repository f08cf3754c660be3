"""The result of a suite: the tables of `suite.json`."""

from dataclasses import asdict, dataclass, field
from typing import Any, final

from asyndgan.texts import without_nan


@final
@dataclass(frozen=True)
class Difference:
    """A paired comparison of Dice; the difference is positive if `model` is better than `over`.

    Attributes:
        set_name: name of the data set.
        recipe: name of the suite's model.
        model: row of the table.
        over: row that `model` is compared with. `every real:NAME+synthetic` over `real:NAME`
            compares each patient's mean over the sites' models; `synthetic of NAME` is the
            synthetic row of the suite's first recipe, or of the one that the model is against.
        label: label that the Dice is of.
        patients: number of patients that count in both rows.
        difference: mean difference over patients.
        low: lower end of the 95 % bootstrap interval over patients.
        high: upper end.
        ratio: mean Dice of `model` divided by that of `over`, over the same patients.
        ratio_low: lower end of its interval.
        ratio_high: upper end.
        apart: the group of patients that are compared, such as those of one site; empty: all.
    """

    set_name: str
    recipe: str
    model: str
    over: str
    label: str
    patients: int
    difference: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    apart: str = ""


@final
@dataclass(frozen=True)
class Traffic:
    """Size of feedback compared with weights: bytes of one site, mean over sites and seeds.

    Attributes:
        set_name: name of the data set.
        recipe: name of the suite's model.
        steps: number of steps of the run.
        sent: bytes that the site sends per step.
        received: bytes that the site receives per step.
        generator: bytes of the generator's weights in float32.
        discriminator: likewise of the discriminator's, for all modalities.
        fedgan_round: bytes of both networks, to the site and back.
        break_even: K*, the number of steps that move as many bytes as one round of FedGAN.
    """

    set_name: str
    recipe: str
    steps: int
    sent: float
    received: float
    generator: int
    discriminator: int
    fedgan_round: int
    break_even: float


@final
@dataclass(frozen=True)
class Checkpoints:
    """Whether the distance that a coordinator can compute predicts the Dice, which it cannot.

    Attributes:
        set_name: name of the data set.
        recipe: name of the suite's model.
        clip: largest length of a feature vector in `clipped`: the recipe's `selection.clip`, or the
            median length in real images if that is 0.
        steps: steps of the checkpoints.
        pooled: distance of each checkpoint's images from all real ones.
        clipped: the same, computed from each site's clipped moments.
        coordinator: distance that the coordinator measured in training from the sites' moments and
            the images of a few steps; None if the recipe does not have it measured.
        dice: Dice of networks trained on each checkpoint's images.
        correlations: Spearman's rank correlation by pair of measures; signs are chosen such that 1
            is perfect agreement.
    """

    set_name: str
    recipe: str
    clip: float
    steps: list[int]
    pooled: list[float]
    clipped: list[float]
    coordinator: list[float | None]
    dice: list[float]
    correlations: dict[str, float]


@final
@dataclass(frozen=True)
class SuiteResult:
    """The result of a suite; `suite.json` holds the same.

    Attributes:
        suite: name of the suite.
        judged_on: "test" or "validation" patients.
        seeds: number of generators of each model.
        segmentation_seeds: number of segmentation networks of each training set.
        versions: versions of the packages that computed the result.
        digest: SHA-256 in hexadecimal of the suite, `trainings`, `test_sets`, `device`, `versions`,
            and how images are painted and networks trained.
        device: device of the networks.
        test_sets: SHA-256 of the files of each folder of patients of no site, if it was judged on.
        rows: one for each set, recipe and model: the keys of `table.Row`, and `set`, `recipe`,
            `seconds` that the generators took and `bytes` that a site sent and received in the
            whole training, mean over seeds.
        apart: rows for patients that a set reports apart: `set`, `recipe`, `apart`, `model`,
            `label`, `patients`, the mean scores, `dice_low` and `dice_high`.
        differences: paired differences of Dice.
        distances: one for each set, recipe and generator: `Distances`, mean over seeds.
        consistency: for each set, recipe, label and pair of modalities: `Consistency`, mean over
            seeds.
        completions: for each set, recipe and way of completion, of all seeds' generators:
            `Nearness`; for ways that do not use the mask also `dice` of a network trained on all
            real cases, `gain` over a network trained without the modality and `filled`, the gain
            over cases left as they are, each with `_low` and `_high`.
        traffic: one for each set and recipe: `Traffic`.
        checkpoints: one for each set and recipe that asks for it: `Checkpoints`.
        networks: rows of further segmentation networks: the keys of `table.Row`, and `network`.
        paintings: rows of further synthetic sets: the keys of `table.Row` and `PaintingSection`.
        levelling: for each set and label, whether its budget was long enough: `table.Levelling`.
        trainings: for each run, by its folder: digests of its resolved recipe and its sites' files,
            the versions that trained it (asyndgan, torch), and SHA-256 of its generator.
        evaluations: folder of each (set, recipe), relative to the output folder.
        pictures: file of synthetic images of each (set, recipe, generator), relative to the output
            folder.
    """

    suite: str
    judged_on: str
    seeds: int
    segmentation_seeds: int
    versions: dict[str, str]
    digest: str
    device: str = "cpu"
    test_sets: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    apart: list[dict[str, Any]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    distances: list[dict[str, Any]] = field(default_factory=list)
    consistency: list[dict[str, Any]] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    checkpoints: list[Checkpoints] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    paintings: list[dict[str, Any]] = field(default_factory=list)
    levelling: list[dict[str, Any]] = field(default_factory=list)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON, with None in place of nan."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain
