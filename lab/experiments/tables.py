"""Models trained on synthetic records of four banks, beside models of the banks' real records.

    python -m lab.experiments.tables --data DATA --out OUT [--test] [--document FILE]

DATA holds `loans` and `loans_default`. Sites hold 20 % of their records out of all trainings, of
generators and of models. Without `--test` all models are judged on those: recipes are chosen by
them. With `--test` they are judged on test.csv. The Gaussian copula is fitted to all sites' pooled
records, one for each class. Private recipes are planned from the knots and shares declared below.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from asyndgan.auditing.records import audit_records
from asyndgan.judging.records import joined, scored, split_sites
from asyndgan.painting.records import make_records
from asyndgan.recipe import Recipe
from asyndgan.recipe.table import TableSection
from asyndgan.runs import RunFolder
from asyndgan.tables.cohort import read_for, table_of
from asyndgan.tables.planning import plan_tables
from asyndgan.tables.schema import SCHEMA_FILE, schema_of
from lab.experiments.common import arguments, markdown, noise_for, publish, trained

SITES = ("site_1", "site_2", "site_3", "site_4")
EPSILONS = (10, 3, 1)
HELD_OUT = "training.hold_out=0.2"
PRIVATE = {"steps": 300, "records": 100}
"""Steps of a private run, and records expected in an update."""
FEWEST = 1090
"""Records that the smallest site trains on, at least: it holds each out by chance."""
KNOTS: Mapping[str, Sequence[float]] = {
    "loan_amount": (1000, 5000, 10_000, 15_000, 20_000, 30_000, 40_000),
    "annual_income": (0, 30_000, 50_000, 70_000, 100_000, 200_000, 2_500_000),
    "emp_length": (0, 1, 3, 6, 10),
    "debt_to_income": (0, 10, 15, 20, 30, 50, 500),
    "months_since_last_credit_inquiry": (0, 2, 5, 10, 24),
    "months_since_last_delinq": (0, 12, 24, 36, 60, 120),
    "earliest_credit_line": (1960, 1995, 2000, 2005, 2010, 2018),
    "inquiries_last_12m": (0, 1, 2, 4, 30),
    "accounts_opened_24m": (0, 2, 4, 6, 30),
    "total_credit_limit": (0, 50_000, 100_000, 200_000, 400_000, 4_000_000),
    "total_credit_utilized": (0, 15_000, 30_000, 60_000, 100_000, 1_000_000),
    "total_debit_limit": (0, 10_000, 20_000, 40_000, 400_000),
    "num_mort_accounts": (0, 1, 3, 15),
    "num_cc_carrying_balance": (0, 3, 5, 8, 45),
    "num_active_debit_accounts": (0, 2, 4, 6, 35),
}
"""Round numbers, declared without looking at the records."""
SHARES = {"no": 0.8, "yes": 0.2}


def banks(data: Path, out: Path, *, declared: bool = False) -> dict[str, Path]:
    """A folder for each bank, with its records and the schema."""
    schema = json.loads((data / SCHEMA_FILE).read_text("utf-8"))
    if declared:
        schema["shares"] = SHARES
        for name, knots in KNOTS.items():
            schema["columns"][name]["knots"] = list(knots)
    for site in (*SITES, "test"):
        folder = out / site
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / f"{site}.csv", folder / "records.csv")
        (folder / SCHEMA_FILE).write_text(json.dumps(schema), "utf-8")
    return {site: out / site for site in SITES}


def recipe_of(sites: Mapping[str, Path], *overrides: str) -> Recipe:
    """The planned recipe."""
    recipe = plan_tables(sites, [HELD_OUT, *overrides])
    assert recipe is not None  # the sites have tables
    return recipe


def private(epsilon: float) -> tuple[str, ...]:
    """Overrides of a recipe that spends at most this epsilon at the smallest site."""
    steps, records = PRIVATE["steps"], PRIVATE["records"]
    noise = noise_for(epsilon, records / FEWEST, steps)
    return (
        "privacy.kind=discriminator", f"privacy.noise={noise:.3f}", f"privacy.patients={records}",
        f"training.steps={steps}",
    )  # fmt: skip


def runs(
    sites: Mapping[str, Path],
    out: Path,
    *overrides: str,
    seeds: Sequence[int] = (0,),
    fedgan: bool = False,
) -> list[RunFolder]:
    """Finished runs of the planned recipe, one a seed."""
    recipes = {seed: recipe_of(sites, *overrides, f"training.seed={seed}") for seed in seeds}
    return [
        trained(recipe, dict(sites), out / f"{seed}", fedgan=fedgan)
        for seed, recipe in recipes.items()
    ]


def copula(records: pd.DataFrame, table: TableSection, seed: int) -> pd.DataFrame:
    """Twice as many records by a Gaussian copula of each class; every margin is the real one."""
    random = np.random.default_rng(seed)
    parts = []
    for label, own in records.groupby(table.target):
        margins, scores = [], []
        for column in table.columns:
            keys = own[column.name]
            if column.categories:
                keys = keys.map({name: code for code, name in enumerate(column.categories)})
            numbers = keys.astype("Float64").fillna(-1e18).to_numpy(np.float64)
            order = np.lexsort((random.random(len(own)), numbers))  # equal values at random
            ranks = np.empty(len(own))
            ranks[order] = (np.arange(len(own)) + 0.5) / len(own)
            scores.append(norm.ppf(ranks))
            margins.append(own[column.name].iloc[order])
        drawn = random.multivariate_normal(
            np.zeros(len(scores)), np.corrcoef(np.stack(scores)), 2 * len(own)
        )
        places = (norm.cdf(drawn) * len(own)).astype(int)
        made = {margin.name: margin.iloc[places[:, n]].array for n, margin in enumerate(margins)}
        parts.append(pd.DataFrame({**made, table.target: label}))
    return joined(parts).astype(records.dtypes.to_dict())


def measured(
    data: Path, out: Path, *, seeds: int, test: bool, with_fedgan: bool, private_runs: bool
) -> dict[str, Any]:
    """Scores of all models on one set, and audits of all runs."""
    sites = banks(data, out / "banks")
    runs_of = {"asyndgan": runs(sites, out / "asyndgan", seeds=range(seeds))}
    opened = {"asyndgan": sites}
    if with_fedgan:
        runs_of["FedGAN"] = runs(sites, out / "fedgan", fedgan=True)
        opened["FedGAN"] = sites
    if private_runs:
        declared = banks(data, out / "declared", declared=True)
        for epsilon in EPSILONS:
            name = f"asyndgan, epsilon {epsilon}"
            runs_of[name] = runs(declared, out / f"epsilon-{epsilon}", *private(epsilon))
            opened[name] = declared
    first = runs_of["asyndgan"][0]
    split = split_sites(first, sites, {})
    schema, table = schema_of(sites[SITES[0]]), table_of(first.recipe())
    judged = (
        read_for(first.recipe(), out / "banks" / "test", "test").records if test else split.held
    )
    pooled = joined(split.kept.values())
    sets = {"real, all banks": [pooled], **{f"real, {s}": [own] for s, own in split.kept.items()}}
    sets["Gaussian copula, pooled"] = [copula(pooled, table, seed) for seed in range(3)]
    sets |= {name: [make_records(run) for run in found] for name, found in runs_of.items()}
    audits = {}
    for name, found in runs_of.items():
        for place, run in enumerate(found):
            folder = out / "audits" / f"{name.replace(' ', '-')}-{place}"
            audit = audit_records(run, opened[name], folder)
            audits[f"{name}, seed {place}"] = asdict(audit.attacks[-1]) | {
                "copied": audit.copies[-1] / audit.attacks[-1].members, "matched": audit.matched,
            }  # fmt: skip
    return {
        "judged_on": f"{len(judged)} {'test' if test else 'held-out'} records",
        "scores": [asdict(one) for one in scored(sets, judged, schema, seeds=1)],
        "audits": audits,
    }


def block(found: Mapping[str, Any]) -> str:
    """The tables of one set."""
    rows: dict[str, list[str]] = {}
    for one in found["scores"]:
        row = rows.setdefault(one["records"], [one["records"], f"{one['count']:,}"])
        row.append(f"{one['auc']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
        row.append(f"{one['ratio']:.3f} ({one['ratio_low']:.3f} to {one['ratio_high']:.3f})")
    heading = ["trained on", "records", "boosting AUC", "of all-real"]
    heading += ["regression AUC", "of all-real"]
    attacks = [
        [name, f"{one['auc']:.3f}", f"{one['low']:.3f} to {one['high']:.3f}",
         f"{one['copied']:.2%}", f"{one['matched']:.2%}"]
        for name, one in found["audits"].items()
    ]  # fmt: skip
    about = f"Judged on {found['judged_on']}. Intervals of 95 % by a bootstrap over these records."
    told = ["run", "membership AUC", "95 % interval", "members copied", "others matched"]
    return f"{about}\n\n{markdown(heading, rows.values())}\n\n{markdown(told, attacks)}"


def main() -> None:
    """Trains what is missing, then judges everything and writes the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--test", action="store_true", help="judge on test.csv")
    parser.add_argument("--sets", nargs="+", default=["loans", "loans_default"])
    parser.add_argument("--private", action="store_true", help="also train with privacy (loans)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the generator")
    parser.add_argument("--fedgan", action="store_true", help="also train FedGAN, one seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Path(__file__).parents[1] / "results" / "tables.json"
    known = json.loads(results.read_text()) if asked.document and results.exists() else {}
    for name in asked.sets:
        found = measured(
            asked.data / name, asked.out / name, seeds=asked.seeds, test=asked.test,
            with_fedgan=asked.fedgan,
            private_runs=asked.private and name == "loans",
        )  # fmt: skip
        known[name] = found
        publish(block(found), name, asked.document)
    if asked.document:
        results.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
