"""Wrong arguments of the Python API are named, with their value, before anything is read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import asyndgan
from asyndgan.errors import AsyndganError
from commands import PUBLISHER

SITES = {"north": "data/north"}
CALLS: dict[str, Callable[..., Any]] = {
    "train": lambda **own: asyndgan.train(**{"recipe": "demo", "sites": SITES, "out": "run"} | own),
    "generate": lambda **own: asyndgan.generate("run", "set", **own),
    "release": lambda **own: asyndgan.release("run", "set", ["audit"], **PUBLISHER, **own),
    "evaluate": lambda **own: asyndgan.evaluate("run", SITES, "out", **own),
    "audit": lambda **own: asyndgan.audit("run", SITES, "out", **own),
}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("train", "threads", 0), ("train", "sites", ["data/north"]), ("generate", "draws", 1.5),
        ("release", "fade", "lesion"), ("evaluate", "labels", "lesion"), ("audit", "holdout", 3),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_or_range_is_named(name, argument, value):
    with pytest.raises(AsyndganError) as caught:
        CALLS[name](**{argument: value})
    said = str(caught.value)
    assert said.startswith(f"asyndgan.{name}: {argument} = {value!r}: ")
    assert not any(word in said for word in ("instance", "valid", "pydantic", "Input"))


def test_a_call_without_sites_names_what_is_missing(tmp_path):
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
def test_overrides_may_be_tables_and_numbers_of_numpy(overrides, told, tmp_path):
    with pytest.raises(AsyndganError, match=told):
        asyndgan.train("demo", SITES, tmp_path / "run", overrides=overrides)
