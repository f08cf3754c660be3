"""How useful synthetic records are: models trained on them, judged on real records."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12

from asyndgan.errors import RunError
from asyndgan.judging.bench import Bench, OnProgress
from asyndgan.judging.metrics import area_under_curve
from asyndgan.locks import written_alone
from asyndgan.painting.records import generate_records, read_synthetic
from asyndgan.runs import RunFolder
from asyndgan.runs.facts import Count, Hex
from asyndgan.runs.sites import changed_sites, choosers_of, told_of_sites
from asyndgan.runs.trial import trial_of
from asyndgan.store.splits import OPEN
from asyndgan.tables.cohort import cohort_of, read_for, split
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.schema import Schema, check_positive, refuse_for_images
from asyndgan.tables.table import Table, check_apart
from asyndgan.texts import Line, SiteName, replace_text

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

EVALUATION_FILE: Final = "evaluation.json"
DRAWN: Final = 1000
"""Bootstrap samples of the test records."""
REAL_ALL, SYNTHETIC = "real, all sites", "synthetic"


@final
@dataclass(frozen=True)
class Score:
    """One kind of model, trained on one set of records."""

    records: str  # what it was trained on
    model: str  # `boosting` or `regression`
    count: int  # number of training records
    auc: float  # on the test records, mean over seeds, with its 95 % interval over test records
    low: float
    high: float
    ratio: float  # AUC relative to that of all sites' real records, over the same bootstrap samples
    ratio_low: float
    ratio_high: float
    brier: float  # mean squared error of the predicted probability
    gap: float  # mean difference, over tenths, of predicted probability and fraction (calibration)


class About(TypedDict):
    """What was judged, on which records."""

    generator_sha256: Hex
    judged_on: Line
    target: Line
    positive: Line
    seeds: Count
    sites: list[SiteName]
    trial: Line
    note: Line


@final
@dataclass(frozen=True)
class RecordsEvaluation:
    """What `evaluation.json` holds of a table."""

    about: About  # `generator_sha256` names the run's generator
    scores: list[Score]  # of all models
    # by column, 1 minus the Kolmogorov-Smirnov distance of real and synthetic values or, of
    # categories, 1 minus the total variation distance; missing values count as lowest
    columns: dict[str, float]
    pairs: float  # mean over column pairs of 1 minus half the difference of Spearman correlations
    kind: str = field(default="table")


def evaluate_records(
    run: RunFolder,
    sites: Mapping[str, Path],
    bench: Bench,
    *,
    test: Path | None = None,
    synthetic: Path | None = None,
    states: Mapping[str, Path] | None = None,
    **of_images: object,
) -> RecordsEvaluation:
    """Compares models trained on synthetic records, on all sites' and on each site's.

    Arguments are those of `asyndgan.evaluate`; seeds are trainings of each boosting model.

    Raises:
        RunError: an option of images is given, there is nothing to judge on, a site is none of the
            run's, nobody can tell what it held out, the test records are theirs, or another
            generator made the synthetic ones.
        DataError, CohortError: a table cannot be read, or has other columns.
    """
    with written_alone(bench.out):
        usual, out = Bench(bench.out), bench.out
        chosen = {
            "fade": (), "steps": bench.budget.steps != usual.budget.steps, "label": (),
            "workers": bench.workers, "device": bench.device != usual.device,
        }  # fmt: skip
        refuse_for_images(chosen | of_images)
        split_up = split_sites(run, sites, states or {})
        kept, held = split_up.kept, split_up.held
        changed = changed_sites(run, sites, states or {}, split_up.members)
        if changed and not test:  # records are held out by their places in the table
            raise RunError(
                f"{sites[changed[0]]} does not hold the records that {changed[0]} was trained on, "
                "in their order, so nobody can tell which of them it held out. Name the table that "
                "the site had, or give records of no site with --test."
            )
        schemas = {site: table.schema for site, table in split_up.tables.items()}
        check_positive(schemas)
        schema = next(iter(schemas.values()))
        judged = read_for(run.recipe(), test, "the test set").records if test else held
        if test:
            check_apart(judged, [*kept.values(), held], "--test")
        _check_judged(judged, schema)
        if synthetic is None:
            synthetic = out / "synthetic"
            if not synthetic.exists():
                generate_records(run, synthetic)
        made = read_synthetic(run, synthetic)
        single = {f"real, {site}": [own] for site, own in kept.items()} if len(kept) > 1 else {}
        sets = {REAL_ALL: [joined(kept.values())], **single, SYNTHETIC: [made]}
        facts, recipe = run.facts(), run.recipe()
        result = RecordsEvaluation(
            about={
                "generator_sha256": facts.generator_sha256,
                "judged_on": f"{len(judged)} {'test' if test else 'held-out'} records",
                "target": schema.target,
                "positive": schema.positive_class,
                "seeds": len(bench.seeds),
                "sites": list(sites),
                "trial": trial_of(facts, recipe),
                "note": told_of_sites(facts, sites, changed),
            },
            scores=scored(sets, judged, schema, bench.on_progress, seeds=len(bench.seeds)),
            columns=column_likeness(judged, made, schema),
            pairs=pair_likeness(judged, made, schema),
        )
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / EVALUATION_FILE, json.dumps(asdict(result), indent=2) + "\n")
        return result


class SplitSites(NamedTuple):
    """Sites' tables; the records of each that it trained on, and all that they held out."""

    tables: Mapping[str, Table]
    kept: Mapping[str, "pd.DataFrame"]
    held: "pd.DataFrame"
    members: Callable[[str, str], str]
    """Digest of the records of a site, as the site that is named next would have it."""


def split_sites(
    run: RunFolder, sites: Mapping[str, Path], states: Mapping[str, Path]
) -> SplitSites:
    """Reads the tables of a run's sites, and splits each as the site did; raises as `read_for`."""
    recipe, known = run.recipe(), run.facts().sites
    choosers, tables, kept, held = choosers_of(run, sites, states), {}, {}, []
    for site, data in sites.items():
        if site not in known:
            raise RunError(f"--site {site}: this run has {', '.join(known)}. Name one of them.")
        tables[site] = read_for(recipe, data, f"site {site}")
        kept[site], own = split(recipe, tables[site], choosers.get(site, OPEN))
        held.append(own)

    def members(site: str, owner: str) -> str:  # sites order and encode records as their name says
        return cohort_of(recipe, tables[site], owner, choosers.get(owner, OPEN)).members

    return SplitSites(tables, kept, joined(held), members)


def joined(tables: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
    """The records of several tables, one after the other."""
    import pandas as pd

    return pd.concat(list(tables), ignore_index=True)


def _check_judged(records: "pd.DataFrame", schema: Schema) -> None:
    positive = (records[schema.target] == schema.positive_class) if len(records) else []
    if not any(positive) or all(positive):
        raise RunError(
            f"there are {len(records)} records to judge on, and they must hold some of the class "
            f"'{schema.positive_class}' and some of another. Name others with --test, or train "
            "with training.hold_out above 0."
        )


def scored(
    sets: Mapping[str, Sequence["pd.DataFrame"]],
    judged: "pd.DataFrame",
    schema: Schema,
    watch: OnProgress | None = None,
    *,
    seeds: int = 1,
) -> list[Score]:
    """Scores of models trained on each set; ratios are of the first set.

    AUCs of several tables, such as those of several trainings, are averaged. `watch` is called with
    a text, the models trained and all models.
    """
    truth = (judged[schema.target] == schema.positive_class).to_numpy()
    samples = samples_of(truth)
    scores, done, total = [], 0, 2 * len(sets)
    for model, seeded in (("boosting", seeds), ("regression", 1)):
        reference: Array | None = None
        for name, tables in sets.items():
            found = [
                predicted(model, records, judged, schema, seed)
                for records in tables
                for seed in range(seeded)
            ]
            aucs = np.mean([aucs_of(truth, own, samples) for own in found], axis=0)
            reference = aucs if reference is None else reference
            scores.append(_score(name, model, len(tables[0]), aucs, reference, truth, found))
            done += 1
            if watch:
                watch(f"{model} on {name}", done, total)
    return scores


def _score(
    name: str, model: str, count: int, aucs: Array, reference: Array, truth: Array,
    found: Sequence[Array],
) -> Score:  # fmt: skip
    """A row of the table; the first of `aucs` is of all test records, the others of samples."""
    ratios = aucs / reference
    low, high = np.percentile(aucs[1:], [2.5, 97.5])
    least, most = np.percentile(ratios[1:], [2.5, 97.5])
    mean = np.mean(found, axis=0)
    tenths = np.array_split(np.argsort(mean), 10)
    gap = np.mean([abs(mean[own].mean() - truth[own].mean()) for own in tenths if len(own)])
    numbers = (aucs[0], low, high, ratios[0], least, most, np.mean((mean - truth) ** 2), gap)
    return Score(name, model, count, *(float(number) for number in numbers))


def samples_of(truth: Array) -> list[Array]:
    """All test records, and bootstrap samples of them, each class by itself."""
    random = np.random.default_rng(0)
    parts = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    drawn = [
        np.concatenate([random.choice(part, len(part)) for part in parts]) for _ in range(DRAWN)
    ]
    return [np.arange(len(truth)), *drawn]


def aucs_of(truth: Array, scores: Array, samples: Sequence[Array]) -> Array:
    """The AUC of scores in each sample; `truth` marks the positive records."""
    return np.array(
        [area_under_curve(scores[own][truth[own]], scores[own][~truth[own]]) for own in samples]
    )


def predicted(
    model: str, records: "pd.DataFrame", judged: "pd.DataFrame", schema: Schema, seed: int = 0
) -> Array:
    """Probability of the positive class for each judged record, by a model trained on records."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truth = (records[schema.target] == schema.positive_class).to_numpy()
    if truth.all() or not truth.any():
        return np.full(len(judged), float(truth.mean()))
    if model == "boosting":
        chosen = [c.kind == "categorical" for c in _inputs(schema).values()]
        # By default it stops early for more than 10,000 records alone, which synthetic ones are.
        learner: Any = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=8, early_stopping=False,
            categorical_features=chosen, random_state=seed,
        )  # fmt: skip
        train, test = (numbers_of(own, schema, one_hot=False) for own in (records, judged))
    else:
        learner = make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
            StandardScaler(), LogisticRegression(max_iter=2000),
        )  # fmt: skip
        train, test = (numbers_of(own, schema, one_hot=True) for own in (records, judged))
    probability: Array = learner.fit(train, truth).predict_proba(test)[:, 1]
    return probability


def _inputs(schema: Schema) -> dict[str, Any]:
    return {name: column for name, column in schema.columns.items() if name != schema.target}


def numbers_of(records: "pd.DataFrame", schema: Schema, *, one_hot: bool) -> Array:
    """Columns beside the target as float64; NaN where a value is missing."""
    parts = []
    for name, column in _inputs(schema).items():
        values = records[name]
        if column.kind != "categorical":
            parts.append(values.to_numpy(np.float64, na_value=np.nan))
        elif one_hot:
            parts += [(values == c).to_numpy(np.float64, na_value=0.0) for c in column.categories]
        else:
            codes = {category: float(code) for code, category in enumerate(column.categories)}
            parts.append(values.map(codes).to_numpy(np.float64, na_value=np.nan))
    return np.stack(parts, axis=1)


def _ordered(records: "pd.DataFrame", schema: Schema) -> "pd.DataFrame":
    """The same as a frame, with missing values below all others."""
    import pandas as pd

    numbers = numbers_of(records, schema, one_hot=False)
    return pd.DataFrame(numbers, columns=[*_inputs(schema)]).fillna(-1e18)


def column_likeness(real: "pd.DataFrame", made: "pd.DataFrame", schema: Schema) -> dict[str, float]:
    """Likeness of each column's values, 0 to 1; see `RecordsEvaluation.columns`."""
    from scipy.stats import ks_2samp

    both = _ordered(real, schema), _ordered(made, schema)
    likeness = {}
    for name, column in _inputs(schema).items():
        one, other = (own[name] for own in both)
        if column.kind == "categorical":
            parts = [own.value_counts(normalize=True) for own in (one, other)]
            distance = float(parts[0].sub(parts[1], fill_value=0).abs().sum() / 2)
        else:
            distance = float(ks_2samp(one, other, method="asymp").statistic)
        likeness[name] = 1 - distance
    return likeness


def pair_likeness(real: "pd.DataFrame", made: "pd.DataFrame", schema: Schema) -> float:
    """Mean likeness of pairs of columns, 0 to 1; see `RecordsEvaluation.pairs`."""
    # A column with one value correlates with none.
    one, other = (_ordered(own, schema).corr("spearman").fillna(0) for own in (real, made))
    apart = np.abs(one - other).to_numpy()[np.triu_indices(len(one), 1)]
    return float(1 - apart.mean() / 2) if len(apart) else 1.0


def distances(encoder: Encoder, of: "pd.DataFrame", to: "pd.DataFrame") -> Array:
    """Distance (L1, a different category counts 1) of each record to the closest of others."""
    from sklearn.neighbors import NearestNeighbors

    one, other = (encoder.encode(own)[:, 0].numpy() / 2 for own in (of, to))
    nearest = NearestNeighbors(n_neighbors=1, metric="manhattan").fit(other)
    found: Array = nearest.kneighbors(one)[0][:, 0]
    return found
