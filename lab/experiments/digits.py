"""Accuracy of a model trained on digits that were painted under differential privacy.

    python -m lab.experiments.digits --out OUT [--seeds 3] [--of-four 3]
        [--document docs/results/digits.md]

The data are the 1,797 digits of 8x8 pixels that scikit-learn ships, each treated as a patient. Four
fifths of them are held by one site or by four; a support vector machine is trained on 2,000 painted
digits and judged on the last fifth. Rows: DP-SGD on the discriminators at several epsilon, for a
delta of 1e-5; for comparison real digits, class means with noise (a mechanism without any network),
and guessing. Stored results are reused; the table is printed.
"""

import math
import secrets
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from asyndgan.engines import InProcess
from asyndgan.privacy.accounting import epsilon_of
from asyndgan.protocol import Endpoint, Exchange, message_limit
from asyndgan.recipe import Recipe
from asyndgan.store import Cohort
from asyndgan.training import Coordinator, Site
from asyndgan.training.scope import generator_inputs
from lab.experiments.common import DELTA, arguments, markdown, noise_for, publish, remembered

Digits = tuple[torch.Tensor, torch.Tensor]
"""Images (n, 1, 16, 16) in [-1, 1] and classes (n,)."""

RECIPE = """
name = "digits"
[image]
size = 16
[condition]
kind = "class"
[generator]
kind = "dcgan"
width = 16
latent = 16
[discriminator]
kind = "dcgan"
width = 32
layers = 2
[optimiser]
decay_from = 1.0
generator_rate = 5e-4
discriminator_rate = 5e-4
[training]
flip = false
batch = 64
chunk = 256
ema = 0.99
checkpoint_every = 100000
[wire]
images = "float16"
feedback = "float16"
"""
RATE = 0.1
"""Expected fraction of the patients that an update uses."""
PAINTED = 2000
CLASSES = {number: str(number) for number in range(10)}


@dataclass(frozen=True)
class Row:
    """One training: its kind, number of sites, epsilon and seed."""

    kind: str
    sites: int
    epsilon: float
    seed: int

    @property
    def name(self) -> str:
        """Key of the result in the JSON file."""
        return f"{self.kind} {self.sites} {self.epsilon:g} {self.seed}"


STEPS = {"none": 1000, "discriminator": 600}
UPDATES = 2
"""Updates of a private discriminator per answer."""


def digits(seed: int) -> tuple[Digits, Digits]:
    """Digits for training and for judging, upscaled to 16x16 pixels."""
    found = load_digits()
    images = torch.from_numpy(found.images / 8 - 1).float()[:, None]
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    classes = torch.from_numpy(found.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    return (images[train], classes[train]), (images[test], classes[test])


def flat(images: torch.Tensor) -> np.ndarray:
    """Images as rows of their original 8x8 pixels."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1).numpy()


def accuracy(train: Digits, test: Digits) -> float:
    """Test accuracy of a support vector machine."""
    machine = SVC().fit(flat(train[0]), train[1].numpy())
    return float((machine.predict(flat(test[0])) == test[1].numpy()).mean())


def recipe_of(row: Row, patients: int) -> Recipe:
    """The recipe of a row; `patients` is the number of patients of its smallest site."""
    steps = STEPS[row.kind]
    overrides = [f"training.steps={steps}", f"training.seed={row.seed}"]
    if row.kind == "discriminator":
        expected = round(RATE * patients)
        noise = noise_for(row.epsilon, expected / patients, steps * UPDATES)
        overrides += [
            "privacy.kind=discriminator", f"privacy.noise={noise}", f"privacy.patients={expected}",
            f"privacy.updates={UPDATES}",
        ]  # fmt: skip
    return Recipe.from_toml(RECIPE, overrides)


def painted(row: Row, train: Digits) -> Digits:
    """Trains a row's generator and paints digits with it, equally many of each class."""
    parts = [(train[0][j :: row.sites], train[1][j :: row.sites]) for j in range(row.sites)]
    recipe = recipe_of(row, min(len(classes) for _, classes in parts))
    sites = {
        f"site-{j}": Site(
            f"site-{j}",
            Cohort(images, classes, modalities=["grey"], labels=CLASSES, seed=j),
            recipe,
        )
        for j, (images, classes) in enumerate(parts)
    }
    limit = message_limit(recipe)
    engine = InProcess({name: Endpoint(site, limit=limit) for name, site in sites.items()})
    coordinator = Coordinator.begin(recipe, Exchange(engine, recipe), run=secrets.token_hex(8))
    for _ in range(recipe.training.steps):
        coordinator.step()
    engine.close()
    for site in sites.values():
        assert epsilon_of(site.release.account.spent, DELTA) <= row.epsilon
    classes = torch.arange(PAINTED) % 10
    random = torch.Generator().manual_seed(row.seed)
    inputs = generator_inputs(recipe, coordinator.scope, classes, [""] * PAINTED, random)
    with torch.no_grad():
        return coordinator.average(*inputs), classes


def means(row: Row, train: Digits) -> Digits:
    """Digits drawn around class means from one noisy sum, the simplest private baseline.

    A patient contributes one image, with pixels from 0 to 1, and 1 to one count: a vector of length
    at most sqrt(64 + 1).
    """
    images = (flat(train[0]) + 1) / 2
    random = np.random.default_rng()
    deviation = noise_for(row.epsilon, 1.0, 1) * math.sqrt(65) if row.epsilon < math.inf else 0.0
    drawn: list[np.ndarray] = []
    for number in range(10):
        own = images[train[1].numpy() == number]
        total = own.sum(0) + deviation * random.standard_normal(64)
        count = max(1.0, len(own) + deviation * random.standard_normal())
        mean = (total / count).clip(0, 1)
        spread = 0.2 * random.standard_normal((PAINTED // 10, 64))  # data-independent variety
        drawn.append(mean + spread)
    pixels = torch.from_numpy(np.stack(drawn, 1).reshape(PAINTED, 1, 8, 8)).float() * 2 - 1
    large = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return large, torch.arange(PAINTED) % 10


def rows(seeds: int, of_four: int) -> list[Row]:
    """All rows, those of one site before those of four, then the baselines."""
    found: list[Row] = []
    for sites, count in ((1, seeds), (4, of_four)):
        for kind, levels in (("none", [math.inf]), ("discriminator", [10.0, 3.0, 1.0])):
            found += [Row(kind, sites, level, s) for s in range(count) for level in levels]
    found += [Row("means", 1, level, s) for s in range(seeds) for level in (math.inf, 10, 3, 1)]
    return found + [Row("real", 1, math.inf, s) for s in range(seeds)]


def run(row: Row) -> float:
    """Test accuracy of a row."""
    train, test = digits(row.seed)
    if row.kind == "real":
        return accuracy(train, test)
    return accuracy(means(row, train) if row.kind == "means" else painted(row, train), test)


def table(results: dict[str, float], every: list[Row]) -> str:
    """The Markdown table of accuracies: mean over seeds, lowest and highest."""
    names = {
        "real": "real digits",
        "none": "painted, no privacy",
        "discriminator": "painted, DP-SGD on the discriminators",
        "means": "class means with noise",
    }
    lines: list[list[object]] = []
    shown: set[tuple[str, int, float]] = set()
    for row in sorted(every, key=lambda row: (list(names).index(row.kind), row.sites)):
        key = (row.kind, row.sites, row.epsilon)
        if key not in shown:
            shown.add(key)
            own = [results[one.name] for one in every if key == (one.kind, one.sites, one.epsilon)]
            spread = f"{np.mean(own):.3f} ({min(own):.3f} to {max(own):.3f})"
            epsilon = "" if row.epsilon == math.inf else f"{row.epsilon:g}"
            lines.append([names[row.kind], row.sites, epsilon, spread, len(own)])
    lines.append(["guessing", "", "", "0.100", ""])
    return markdown(["digits", "sites", "epsilon", "accuracy", "seeds"], lines)


def main() -> None:
    """Runs the missing trainings, then prints and writes the table."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--of-four", type=int, help="seeds of the rows of four sites; else as many")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    every = rows(asked.seeds, asked.seeds if asked.of_four is None else asked.of_four)
    results = {
        row.name: remembered(
            asked.out / "digits.json",
            row.name,
            partial(run, row),
            of=[RECIPE, RATE, PAINTED, STEPS, UPDATES],
        )
        for row in every
    }
    publish(table(results, every), "digits", asked.document)


if __name__ == "__main__":
    main()
