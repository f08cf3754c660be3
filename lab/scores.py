"""The table of a suite's scores, `scores.csv.gz`; its other tables of scores are views of it."""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from asyndgan.errors import MissingPackageError
from asyndgan.judging.bench import write_whole
from asyndgan.judging.metrics import SCORES, ScoreArray, bootstrap_interval, mean
from asyndgan.judging.table import ADDED, SYNTHETIC, Evaluation
from asyndgan.recipe.table import RUN_BY_SPREADSHEETS
from lab.result import FEDAVG_WITHOUT, FEDGAN, LOCAL, POOLED

try:
    import pandas as pd
except ImportError as error:
    raise MissingPackageError("suites", "pandas", "lab") from error

FILE: Final = "scores.csv.gz"


class Key(NamedTuple):
    """Which networks were judged, and by what.

    Attributes:
        set: name of the data set.
        recipe: name of the suite's model; empty if the scores do not depend on it.
        network: the segmentation network.
        painting: which further synthetic set of the recipe; empty for all others.
        model: what the network was trained on, as in `judging.table.Row`.
        label: name of the label.
    """

    set: str
    recipe: str
    network: str
    painting: str
    model: str = ""
    label: str = ""

    @property
    def is_main(self) -> bool:
        """Whether it is of a set's main table: the U-Net and no further synthetic set."""
        return (self.network, self.painting) == ("unet", "")


Found = Mapping[Key, tuple[int, ScoreArray]]
"""Number of distinct training cases, and the scores of the networks trained on them."""


def of_recipe(model: str) -> bool:
    """Whether a model depends on the recipe; others are trained from real cases or masks alone."""
    return model in (SYNTHETIC, POOLED, FEDGAN, LOCAL, FEDAVG_WITHOUT) or model.endswith(ADDED)


def tidy(evaluation: Evaluation, key: Key, first: int = 0) -> pd.DataFrame:
    """The scores of an evaluation, one row for each model, label, seed and patient.

    Args:
        evaluation: the evaluation.
        key: key of all its scores, but for the model and the label.
        first: position of its first patient among those of all folds.

    Returns:
        The fields of `Key`, `cases` (distinct training cases), `seed` and `patient` (positions),
        and the fields of `PatientScore`.
    """
    frame = evaluation.frame
    found = frame.assign(**key._asdict() | {name: frame[name] for name in ("model", "label")})
    found["patient"] += first
    found.loc[~found["model"].map(of_recipe), ["recipe", "painting"]] = ""
    return found[[*Key._fields, "cases", "seed", "patient", *SCORES]]


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table; networks on real cases, which several recipes are compared with, stand once."""
    of_one = [*Key._fields, "seed", "patient"]
    return pd.concat(tables).drop_duplicates(of_one).reset_index(drop=True)


_QUOTED: Final = (*RUN_BY_SPREADSHEETS, "'")


def _inert(name: str) -> str:
    """A name as no spreadsheet runs it: an apostrophe precedes what begins like a formula."""
    return f"'{name}" if name.startswith(_QUOTED) else name


def write_scores(scores: pd.DataFrame, folder: Path) -> None:
    """Writes `scores.csv.gz`, whose bytes depend on the scores alone.

    Data sets choose names of labels, so names are written as `_inert`; numbers stay as they are.
    """
    told = scores.assign(**{key: scores[key].map(_inert) for key in Key._fields})
    text = told.to_csv(index=False, lineterminator="\n")
    write_whole(folder / FILE, gzip.compress(text.encode(), mtime=0))


def read_scores(file: Path) -> pd.DataFrame:
    """Reads a table of scores."""
    return pd.read_csv(
        file, keep_default_na=False,
        converters=dict.fromkeys(Key._fields, lambda text: text.removeprefix("'"))
        | dict.fromkeys(SCORES, lambda text: float(text or "nan")),
    )  # fmt: skip


def by_key(scores: pd.DataFrame) -> Found:
    """The scores of each model and label as an array."""
    found = {}
    for key, own in scores.groupby(list(Key._fields), sort=False):
        own = own.sort_values(["seed", "patient"])  # folds follow each other
        array = own[list(SCORES)].to_numpy().reshape(own["seed"].nunique(), -1, len(SCORES))
        found[Key(*key)] = int(own["cases"].iloc[0]), array
    return found


def interval(name: str, values: Sequence[float] | ScoreArray) -> dict[str, float]:
    """Mean of the values that are not nan, and its 95 % interval, as keys of a row."""
    low, high = bootstrap_interval(values)
    return {name: mean(values), f"{name}_low": low, f"{name}_high": high}
