"""What privacy and a lying site cost in Dice, on phantoms (first: asyndgan phantoms DATA/phantoms).

    python -m lab.experiments.phantoms --data DATA --out OUT [--document docs/results/phantoms.md]

Tables of short trainings that differ in one setting each, judged by segmentation networks that
were trained on synthetic images only. `integrity`: one of four sites sends its feedback with the
sign reversed, with ten times its length or its own; the coordinator sums, or bounds.
`minorities`: the same where nobody lies, judged by the KID of what is painted for each site from
its own real images, since a defence may take a small site for a liar. `private`: DP-SGD on the
discriminators, for a delta of 1e-5, at one site and at four; masks are unprotected. One seed for
all networks, intervals over patients.
"""

import math
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from asyndgan.engines import build_engine
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.metrics import average, bootstrap_interval
from asyndgan.judging.real import load_real
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.sets import masks_of, of_sites, painting_of
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import ANSWERS, Judgement, pack, unpack
from lab.experiments.common import (
    arguments,
    digest_of,
    markdown,
    noise_for,
    publish,
    remembered,
    sites_of,
    trained,
)
from lab.kid import KID, thousandths
from lab.kids import kids
from lab.paintings import counterparts

STEPS = 500
PATIENTS = 6
"""Expected number of patients that a private update uses."""
UPDATES = 2
BUDGET = SegmentationBudget(steps=400)
LIAR = "west"


class Lying(Transport):
    """Wraps an engine and multiplies the feedback of the site `LIAR` by a factor."""

    def __init__(self, inner: Transport, recipe: Recipe, factor: float) -> None:
        self.inner, self.recipe, self.factor = inner, recipe, factor

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Forwards everything and falsifies the liar's judgements."""
        answer = self.inner.send(site, payload, timeout)
        said = unpack(answer, ANSWERS, limit=2**30)
        if site != LIAR or not isinstance(said, Judgement):
            return answer
        turned = said.model_copy(update={"feedback": self.factor * said.feedback})
        codings: dict[str, Coding] = {
            "feedback": self.recipe.wire.feedback, "conditions": "label8",
        }  # fmt: skip
        return pack(turned, codings)

    def sites(self) -> tuple[str, ...]:
        """The sites of the wrapped engine."""
        return self.inner.sites()

    def close(self) -> None:
        """Closes the wrapped engine."""
        self.inner.close()


OWN = ("masks.source=own", "masks.release=true")


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        table: table that it belongs to.
        cells: cells of the table that describe it.
        overrides: overrides of the recipe `demo`.
        lie: factor by which the lying site multiplies its feedback; 1: no site lies.
        alone: only one site takes part.
    """

    table: str
    cells: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    lie: float = 1.0
    alone: bool = False

    @property
    def name(self) -> str:
        """Name for files and folders."""
        return "-".join(cell.replace(" ", "_").replace("/", "_") for cell in self.cells)


def variants() -> list[Variant]:
    """All variants of both tables."""
    found: list[Variant] = []
    ways = {"sum": (), "sum, bound 2": ("integrity.bound=2",)}
    found += [
        Variant("minorities", ("nobody", how), (f"training.steps={STEPS}", *extra))
        for how, extra in ways.items()
    ]
    for liar, factor in (("nobody", 1.0), ("ten times as long", -10.0), ("as long", -1.0)):
        found += [
            Variant("integrity", (liar, how), (f"training.steps={STEPS}", *extra), lie=factor)
            for how, extra in ways.items()
        ]
    for sites, alone, patients in (("1", True, 26), ("4", False, 15)):
        found += [
            Variant("private", (kind, sites, level), overrides, alone=alone)
            for kind, level, overrides in private(patients)
        ]
    return found


def private(patients: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind, epsilon and overrides; `patients` is the number of patients of the smallest site."""
    plain = (
        "discriminator.kind=patch", "loss.segmentation=0", "discriminator.cross_fitted=false",
        "training.precision=float32",
        "masks.release=false", f"training.steps={STEPS}",
    )  # fmt: skip
    found: list[tuple[str, str, tuple[str, ...]]] = [("no privacy", "", plain)]
    for epsilon in (10, 3, 1):
        noise = noise_for(epsilon, PATIENTS / patients, STEPS * UPDATES)
        overrides = (
            *plain, "privacy.kind=discriminator", "privacy.conditions=unprotected",
            f"privacy.noise={noise:.3f}", f"privacy.patients={PATIENTS}",
            f"privacy.updates={UPDATES}",
        )  # fmt: skip
        found.append(("DP-SGD on the discriminators", str(epsilon), overrides))
    return found


def judged(variant: Variant, data: Path, out: Path) -> dict[str, list[float]]:
    """Dice of each test patient's lesion and ventricle, after training on synthetic images only."""
    recipe = load_recipe("demo", [*OWN, *variant.overrides])
    sites = sites_of(data, "phantoms")
    taking_part = {"north": sites["north"]} if variant.alone else sites
    # The lie is inserted between the engine and the coordinator, as a real one would be.
    lying = patch.object(
        sys.modules["asyndgan.runs.train"],
        "build_engine",
        lambda *arguments: Lying(build_engine(*arguments), recipe, variant.lie),
    )
    with lying if variant.lie != 1 else nullcontext():
        run = trained(recipe, taking_part, out / variant.name)
    facts = run.facts()
    opened = {name: DataSet(folder) for name, folder in taking_part.items()}
    real, test = load_real(
        opened, DataSet(data / "phantoms" / "test"), recipe, modalities=facts.scope.modalities,
        labels=facts.labels,
    )  # fmt: skip
    labels = {name: int(number) for number, name in facts.labels.items()}
    painted = list(painting_of(run, masks_of(real)))
    unseen = Judged(test, labels, ["lesion", "ventricle"])
    scores = Bench(out, BUDGET).scores({"synthetic": [painted]}, unseen).scores
    return {
        label: [dice for dice in average(own)[:, 0].tolist() if not math.isnan(dice)]
        for label, own in scores["synthetic"].items()
    }


def apart(variant: Variant, data: Path, out: Path) -> dict[str, Any]:
    """KIDs of what is painted for each site from that site's real images."""
    recipe, sites = load_recipe("demo", [*OWN, *variant.overrides]), sites_of(data, "phantoms")
    run = trained(recipe, sites, out / variant.name)
    facts = run.facts()
    opened = {name: DataSet(folder) for name, folder in sites.items()}
    real, _ = load_real(
        opened, None, recipe, modalities=facts.scope.modalities, labels=facts.labels
    )  # fmt: skip
    painted = counterparts(run, real)
    return asdict(kids(painted, list(of_sites(real).patients.values()), real))


def minorities(data: Path, out: Path) -> str:
    """The table of `apart`."""
    sites = sites_of(data, "phantoms")
    rows = []
    for variant in (one for one in variants() if one.table == "minorities"):
        of = [
            load_recipe("demo", [*OWN, *variant.overrides]).digest(),
            [digest_of(folder) for folder in sites.values()],
        ]
        make = partial(apart, variant, data, out)
        found = remembered(out / "kids.json", variant.name, make, of=of)
        pairs = [(found["mixture"], found["floor"])]
        pairs += [(found["of_sites"][site], found["floors"][site]) for site in sites]
        cells = [f"{thousandths(own)} ({thousandths(floor)})" for own, floor in pairs]
        rows.append([variant.cells[1], *cells])
    cases = {site: len(list((folder / "labelsTr").iterdir())) for site, folder in sites.items()}
    heading = ["aggregation", "all sites", *(f"{site} ({cases[site]} cases)" for site in sites)]
    about = (
        f"{STEPS} steps of `demo`, one seed, nobody lies; {KID} from real images, in parentheses "
        "that of two halves of the real patients."
    )
    return f"{about}\n\n{markdown(heading, rows)}"


def main() -> None:
    """Runs the missing trainings, then prints and writes the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--tables", nargs="+", default=["integrity", "minorities", "private"])
    parser.add_argument(
        "--skip", nargs="+", default=[], help="names of trainings to leave out, as their folders'"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    headings = {
        "integrity": ["site that lies", "aggregation"],
        "private": ["privacy", "sites", "epsilon"],
    }
    for table in asked.tables:
        if table == "minorities":
            publish(minorities(asked.data, asked.out), table, asked.document)
            continue
        rows = []
        for variant in variants():
            if variant.table != table or variant.name in asked.skip:
                continue
            make = partial(judged, variant, asked.data, asked.out)
            folders = [*sites_of(asked.data, "phantoms").values(), asked.data / "phantoms" / "test"]
            of = [
                load_recipe("demo", [*OWN, *variant.overrides]).digest(),
                variant.lie, variant.alone,
                asdict(BUDGET), [digest_of(folder) for folder in folders],
            ]  # fmt: skip
            found = remembered(asked.out / "dice.json", f"{table}-{variant.name}", make, of=of)
            cells: list[object] = [*variant.cells]
            for label in ("lesion", "ventricle"):
                low, high = bootstrap_interval(found[label])
                mean = sum(found[label]) / len(found[label])
                cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})")
            rows.append([*cells, len(found["lesion"])])
        heading = [*headings[table], "lesion Dice", "ventricle Dice", "patients with a lesion"]
        about = f"{STEPS} steps of `demo`, one seed, {BUDGET.steps} segmentation steps."
        publish(f"{about}\n\n{markdown(heading, rows)}", table, asked.document)


if __name__ == "__main__":
    main()
