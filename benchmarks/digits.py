"""What a model learns from digits that were painted under differential privacy.

    python benchmarks/digits.py --out OUT [--seeds 3] [--document docs/evidence.md]

The 1,797 digits of 8x8 pixels that scikit-learn ships, each taken for a patient. Four fifths
of them lie at one site or at four; a support vector machine is trained on 2,000 painted and judged
on the last fifth. Rows: DP-SGD on the discriminators and noised feedback at several epsilon, for a
delta of 1e-5; beside them real digits, the means of the classes with noise (a mechanism without any
network), and guessing. What is in the file already is not run again; the table is printed.
"""

import math
import secrets
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from asyndgan.data import Cohort
from asyndgan.engines import InProcess
from asyndgan.privacy.accounting import epsilon_of
from asyndgan.protocol import Endpoint, Exchange, message_limit
from asyndgan.recipe import Recipe
from asyndgan.training import Coordinator, Site, generator_inputs
from common import DELTA, arguments, markdown, noise_for, publish, remembered

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
"""Part of the patients that an update looks at."""
PAINTED = 2000
CLASSES = {number: str(number) for number in range(10)}


@dataclass(frozen=True)
class Row:
    """One training: how, at how many sites, for which epsilon, with which seed."""

    kind: str
    sites: int
    epsilon: float
    seed: int

    @property
    def name(self) -> str:
        """For the file."""
        return f"{self.kind} {self.sites} {self.epsilon:g} {self.seed}"


STEPS = {"none": 1000, "discriminator": 600, "feedback": 100}
UPDATES = 2
"""Of a private discriminator an answer."""


def digits(seed: int) -> tuple[Digits, Digits]:
    """Digits to train with and to judge by; every pixel twice as high and wide."""
    found = load_digits()
    images = torch.from_numpy(found.images / 8 - 1).float()[:, None]
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    classes = torch.from_numpy(found.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    return (images[train], classes[train]), (images[test], classes[test])


def flat(images: torch.Tensor) -> np.ndarray:
    """At their own 8x8 pixels."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1).numpy()


def accuracy(train: Digits, test: Digits) -> float:
    """Of a support vector machine."""
    machine = SVC().fit(flat(train[0]), train[1].numpy())
    return float((machine.predict(flat(test[0])) == test[1].numpy()).mean())


def recipe_of(row: Row, patients: int) -> Recipe:
    """The recipe of a row whose smallest site has so many patients."""
    steps = STEPS[row.kind]
    overrides = [f"training.steps={steps}", f"training.seed={row.seed}"]
    if row.kind == "discriminator":
        expected = round(RATE * patients)
        noise = noise_for(row.epsilon, expected / patients, steps * UPDATES)
        overrides += [f"privacy.patients={expected}", f"privacy.updates={UPDATES}"]
    if row.kind == "feedback":
        noise = noise_for(row.epsilon, 1.0, steps)
        overrides += ["privacy.clip=0.01", "training.batch=16"]  # less noise in fewer images
    if row.kind != "none":
        overrides += [f"privacy.kind={row.kind}", f"privacy.noise={noise}"]
    return Recipe.from_toml(RECIPE, overrides)


def painted(row: Row, train: Digits) -> Digits:
    """What the generator of a row paints in the end, all classes alike."""
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
    """Class means by one noisy sum: the plainest private digits there are.

    A patient adds one image, with pixels from 0 to 1, and one to one count: a vector of length
    sqrt(64 + 1) at most.
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
        spread = 0.2 * random.standard_normal((PAINTED // 10, 64))  # public: so that there are many
        drawn.append(mean + spread)
    pixels = torch.from_numpy(np.stack(drawn, 1).reshape(PAINTED, 1, 8, 8)).float() * 2 - 1
    large = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return large, torch.arange(PAINTED) % 10


def rows(seeds: int) -> list[Row]:
    """All of them, those of one site first."""
    found: list[Row] = []
    for sites in (1, 4):
        for kind, levels in (
            ("none", [math.inf]),
            ("discriminator", [10.0, 3.0, 1.0]),
            ("feedback", [10.0, 3.0, 1.0]),
        ):
            found += [Row(kind, sites, level, s) for s in range(seeds) for level in levels]
    found += [Row("means", 1, level, s) for s in range(seeds) for level in (math.inf, 10, 3, 1)]
    return found + [Row("real", 1, math.inf, s) for s in range(seeds)]


def run(row: Row) -> float:
    """Accuracy of a row."""
    train, test = digits(row.seed)
    if row.kind == "real":
        return accuracy(train, test)
    return accuracy(means(row, train) if row.kind == "means" else painted(row, train), test)


def table(results: dict[str, float], seeds: int) -> str:
    """Markdown: accuracy, mean over seeds and from the worst to the best."""
    names = {
        "real": "real digits",
        "none": "painted, no privacy",
        "discriminator": "painted, DP-SGD on the discriminators",
        "feedback": "painted, noised feedback",
        "means": "class means with noise",
    }
    lines: list[list[object]] = []
    shown: set[tuple[str, int, float]] = set()
    for row in sorted(rows(seeds), key=lambda row: (list(names).index(row.kind), row.sites)):
        key = (row.kind, row.sites, row.epsilon)
        if key not in shown:
            shown.add(key)
            own = [results[Row(*key, seed).name] for seed in range(seeds)]
            spread = f"{np.mean(own):.3f} ({min(own):.3f} to {max(own):.3f})"
            epsilon = "" if row.epsilon == math.inf else f"{row.epsilon:g}"
            lines.append([names[row.kind], row.sites, epsilon, spread, len(own)])
    lines.append(["guessing", "", "", "0.100", ""])
    return markdown(["digits", "sites", "epsilon", "accuracy", "seeds"], lines)


def main() -> None:
    """Runs what is missing, prints and writes the table."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        row.name: remembered(asked.out / "digits.json", row.name, partial(run, row))
        for row in rows(asked.seeds)
    }
    publish(table(results, asked.seeds), "digits", asked.document)


if __name__ == "__main__":
    main()
