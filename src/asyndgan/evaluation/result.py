"""What a suite found: the tables of `suite.json`."""

from dataclasses import asdict, dataclass, field
from typing import Any, final

from asyndgan.evaluation.table import without_nan


@final
@dataclass(frozen=True)
class Difference:
    """A paired difference of Dice: positive where `model` is better than `over`.

    Attributes:
        set_name: of the data.
        recipe: name of the suite's model.
        model: row of the table.
        over: row that it is compared with. `every real:NAME+synthetic` over `real:NAME` compares
            each patient's mean over the sites' models; `synthetic of NAME` is that of the suite's
            first recipe.
        label: what it is judged by.
        patients: that count in both.
        difference: mean over patients.
        low: lower end of the 95 % bootstrap interval over patients.
        high: upper end.
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


@final
@dataclass(frozen=True)
class Traffic:
    """What feedback weighs beside weights; bytes of one site, mean over sites and seeds.

    Attributes:
        set_name: of the data.
        recipe: name of the suite's model.
        steps: of the run.
        sent: by the site in a step.
        received: by the site in a step.
        generator: its weights in float32.
        discriminator: likewise.
        fedgan_round: both networks to the site and back.
        break_even: K*, how many steps weigh as much as one round of FedGAN.
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
    """Whether the distance that a coordinator can compute tells the Dice that it cannot.

    Attributes:
        set_name: of the data.
        recipe: name of the suite's model.
        clip: longest that features were let be in `clipped`: their median length in real images, or
            what the recipe says.
        steps: of the checkpoints.
        pooled: distance of each checkpoint's images from all real ones.
        clipped: the same out of each site's clipped moments.
        coordinator: what the coordinator measured in training from the sites' moments and the
            images of a few steps; None where the recipe has it measure nothing.
        dice: of networks trained on each checkpoint's images.
        correlations: Spearman's rank correlation of each two; distances are turned, so that 1 is
            perfect agreement.
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
    """What a suite found; `suite.json` holds the same.

    Attributes:
        suite: name.
        judged_on: test or validation patients.
        seeds: generators of each model.
        segmentation_seeds: segmentation networks of each training set.
        versions: of what computed it.
        digest: SHA-256 of the suite's own text and of `trainings`, in hexadecimal.
        rows: one for each set, recipe and model: the keys of `table.Row`, and `set`, `recipe`;
            `seconds` that generators took and `bytes` that a site sent and received in the
            whole training, mean over seeds.
        apart: the same keys, for patients that a set reports apart.
        differences: paired.
        distances: one for each set, recipe and generator: `Distances`, mean over seeds.
        consistency: for each set, recipe, label and pair of modalities: `Consistency`, mean over
            seeds.
        completions: for each set, recipe and way to complete what was hidden: `Nearness`; and, of
            ways that are not shown the mask, `dice`, `dice_low`, `dice_high` of a network trained
            on all real cases, and `gain`, `gain_low`, `gain_high` over one trained without the
            modality. By the first seed's generator.
        traffic: one for each set and recipe: `Traffic`.
        checkpoints: one for each set and recipe that asks for it: `Checkpoints`.
        networks: rows of further segmentation networks: the keys of `table.Row`, and `network`.
        paintings: rows of further synthetic sets: the keys of `table.Row` and `PaintingSection`.
        levelling: for each set and label, whether its budget was long enough: `table.Levelling`.
        trainings: by the folder of each run: digest of its resolved recipe, of its sites' files,
            versions that trained it, SHA-256 of its generator.
        evaluations: folder of each (set, recipe), below the output folder.
        pictures: file of synthetic images of each (set, recipe), below the output folder.
    """

    suite: str
    judged_on: str
    seeds: int
    segmentation_seeds: int
    versions: dict[str, str]
    digest: str
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
        """Nested dictionaries and lists for JSON; None where a number cannot be computed."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain
