"""Wrong arguments of the Python API are named, with their value, before anything is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asyndgan
from asyndgan.errors import AsyndganError

SITES = {"north": "data/north"}
CALLS: dict[str, Callable[..., Any]] = {
    "train": lambda **own: asyndgan.train(**{"recipe": "demo", "sites": SITES, "out": "run"} | own),
    "generate": lambda **own: asyndgan.generate("run", "set", **own),
    "evaluate": lambda **own: asyndgan.evaluate("run", SITES, "out", **own),
    "audit": lambda **own: asyndgan.audit("run", SITES, "out", **own),
}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("train", "threads", 0),
        ("train", "threads", "many"),
        ("train", "sites", ["data/north"]),
        ("train", "overrides", ["image.size=32"]),
        ("train", "watch", "print"),
        ("generate", "draws", 0),
        ("generate", "draws", 1.5),
        ("generate", "seed", -1),
        ("generate", "fade", "lesion"),
        ("generate", "release", "audit"),
        ("evaluate", "seeds", 0),
        ("evaluate", "steps", 0),
        ("evaluate", "workers", 0),
        ("evaluate", "labels", "lesion"),
        ("audit", "holdout", 3),
        ("audit", "fade", "lesion"),
    ],
)
def test_an_argument_of_another_type_or_range_is_named(
    name: str, argument: str, value: object
) -> None:
    with pytest.raises(AsyndganError) as caught:
        CALLS[name](**{argument: value})
    assert str(caught.value).startswith(f"asyndgan.{name}: {argument} = {value!r}: ")


def test_a_call_without_sites_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AsyndganError, match="there is no site to train with"):
        asyndgan.train("demo", {}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"image": {"size": np.int64(20)}}, r"image\.size = 20: each side must be a multiple"),
        ({"image.size": np.array([16, 20])}, r"image\.size: each side must be a multiple"),
        ({"image": {"sise": 32}}, r"image\.sise is no key here\. Did you mean image\.size"),
    ],
)
def test_overrides_may_be_tables_and_numbers_of_numpy(
    overrides: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(AsyndganError, match=told):
        asyndgan.train("demo", SITES, tmp_path / "run", overrides=overrides)
