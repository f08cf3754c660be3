"""The result of a suite: the tables of `suite.json`."""

from dataclasses import asdict, dataclass, field
from typing import Any, final

from asyndgan.texts import without_nan

POOLED = "synthetic, all seeds"
"""The synthetic cases of all generators of a model together."""
FEDAVG = "fedavg"
"""One network that all sites train, by averaging its weights."""
FEDAVG_WITHOUT = "fedavg-without"
"""FedAvg where each site lacks some modalities."""
FEDGAN = "fedgan-synthetic"
LOCAL = "local-synthetic"
"""The synthetic cases of a generator for each site alone, pooled."""
CONTRASTS = "random-contrast"
"""Images of random contrasts, painted from masks without a generator."""


@final
@dataclass(frozen=True)
class SuiteResult:
    """The result of a suite; `suite.json` holds the same, beside the scores in `scores.csv.gz`.

    Attributes:
        suite: name of the suite.
        judged_on: "test" or "validation" patients.
        seeds: number of generators of each model.
        segmentation_seeds: number of segmentation networks of each training set.
        versions: versions of the packages that computed the result.
        digest: SHA-256 in hexadecimal of the suite, `trainings`, `test_sets`, `device`, `versions`,
            and how images are painted and networks trained.
        device: device of the networks.
        folds: number of parts of the patients that were held out in turn; 1: none. Only scores are
            of all folds; `kids`, `costs` and all else are of the first.
        test_sets: SHA-256 of the files of each folder of patients of no site, if it was judged on.
        groups: positions of the patients that a set reports apart, by set and heading.
        costs: by `set`, `recipe` and `model`, of generators: `seconds` that they took and `bytes`
            that a site sent and received in the whole training, mean over seeds; of FedAvg `bytes`;
            of generators for each site alone `seconds` of all of them, and `bytes` of a site's set.
        rows: view of the scores, one for each set, recipe, model and label: the keys of `table.Row`
            and those of `costs`, None if not known. Of several generators also `trainings_low` and
            `trainings_high`, the ends of the ratio's 95 % interval over trainings and patients.
        apart: view of the scores of groups: `set`, `recipe`, `apart` (the group's heading),
            `model`, `label`, `patients`, the mean scores, `dice_low` and `dice_high`.
        differences: view of the scores, of paired differences of mean Dice and their 95 % bootstrap
            intervals: `set`, `recipe`, `model`, `over`, `label`, `patients` that count in both,
            `difference` (positive if `model` is better than `over`), `low`, `high`, `ratio`,
            `ratio_low`, `ratio_high` and `apart` (empty: all patients).
            `every real:NAME+synthetic` over `real:NAME` compares each patient's mean over the
            sites' models; `synthetic of NAME` is the synthetic row of the suite's first recipe, or
            of the one that the model is against.
        networks: view of the scores by further segmentation networks: the keys of `table.Row`,
            `set`, `recipe` and `network`.
        paintings: view of the scores of further synthetic sets: the keys of `table.Row`, `set`,
            `recipe` and how they are painted.
        kids: one for each set, recipe and generator: `Kids`, mean over seeds.
        diagnoses: for each set and recipe: `Diagnosis`, mean over seeds.
        consistency: for each set, recipe, label and pair of modalities: `Consistency`, mean over
            seeds.
        completions: for each set, recipe and way of completion, of all seeds' generators:
            those of `nearness`; for ways that do not use the mask also `dice` of a network trained
            on all real cases, `gain` over a network trained without the modality and `filled`, the
            gain over cases left as they are, each with `_low` and `_high`.
        traffic: for each set and recipe, bytes of one site, mean over sites and seeds: of the run's
            `steps`, those `sent` and `received` per step; `generator` and `discriminator`, of their
            weights in float32, for all modalities; `fedgan_round`, of both networks to the site and
            back; `break_even` (K*), the number of steps that move as many bytes as such a round.
        levelling: for each set and label, whether its budget was long enough: `Levelling`.
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
    folds: int = 1
    test_sets: dict[str, str] = field(default_factory=dict)
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    costs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    apart: list[dict[str, Any]] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    paintings: list[dict[str, Any]] = field(default_factory=list)
    kids: list[dict[str, Any]] = field(default_factory=list)
    diagnoses: list[dict[str, Any]] = field(default_factory=list)
    consistency: list[dict[str, Any]] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)
    traffic: list[dict[str, Any]] = field(default_factory=list)
    levelling: list[dict[str, Any]] = field(default_factory=list)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON, with None in place of nan."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain
