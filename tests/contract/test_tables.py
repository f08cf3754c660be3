"""What every engine promises holds for records as it does for images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from asyndgan.engines import ENGINES
from asyndgan.privacy.ledger import read as read_ledger
from asyndgan.runs.train import train
from asyndgan.tables.planning import plan_tables

POLICY = """[leaves]
discriminator_losses = false
masks = "transient"
fingerprint = true
[allows]
known_start = true
unmeasured = true
"""


def sites_in(folder: Path) -> dict[str, Path]:
    random = np.random.default_rng(0)
    for name in ("north", "south"):
        (folder / name).mkdir(parents=True)
        (folder / name / "schema.json").write_text(
            '{"target": "bad", "columns": {"age": {"kind": "integer", "missing": true}, '
            '"sex": {"kind": "categorical", "categories": ["f", "m"]}, '
            '"bad": {"kind": "categorical", "categories": ["no", "yes"]}}}'
        )
        rows = [
            f"{random.choice(['', '20', '35', '61'])},{random.choice(['f', 'm'])},"
            f"{random.choice(['no', 'yes'])}\n"
            for _ in range(60)
        ]
        (folder / name / "records.csv").write_text("age,sex,bad\n" + "".join(rows))
    return {name: folder / name for name in ("north", "south")}


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {}


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_trains_the_same_generator_of_records(
    engine: str, tmp_path: Path, generators: dict[str, str]
) -> None:
    sites = sites_in(tmp_path)
    small = ["training.steps=3", "training.batch=4", "generator.width=8", "discriminator.width=8"]
    recipe = plan_tables(sites, [*small, "training.precision=float32"])
    assert recipe is not None
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    run = train(
        recipe, sites, tmp_path / "run", engine=engine, threads=1,
        policies=dict.fromkeys(sites, policy),
    )  # fmt: skip
    weights = b"".join(p.detach().numpy().tobytes() for p in run.generator().parameters())
    generators[engine] = hashlib.sha256(weights).hexdigest()
    assert len({*generators.values()}) == 1, generators
    assert run.facts().scope.space == recipe.space
    for site in sites:
        kinds = [entry.kind for entry in read_ledger(run.site_state(site) / "ledger.jsonl")]
        assert kinds.count("judgement") == 3
