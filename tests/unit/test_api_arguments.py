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
        ("train", "threads", 0), ("train", "threads", "many"), ("train", "sites", ["data/north"]),
        ("train", "overrides", ["image.size=32"]), ("train", "watch", "print"),
        ("generate", "draws", 0), ("generate", "draws", 1.5),
        ("generate", "fade", "lesion"), ("release", "fade", "lesion"), ("evaluate", "seeds", 0),
        ("evaluate", "steps", 0), ("evaluate", "workers", 0), ("evaluate", "labels", "lesion"),
        ("audit", "holdout", 3), ("audit", "fade", "lesion"),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_or_range_is_named(name, argument, value):
    with pytest.raises(AsyndganError) as caught:
        CALLS[name](**{argument: value})
    assert str(caught.value).startswith(f"asyndgan.{name}: {argument} = {value!r}: ")


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [("train", "recipe", 3), ("train", "overrides", ["a"]), ("release", "fade", "lesion"),
     ("audit", "holdout", np.zeros(3)), ("evaluate", "labels", "lesion")],
)  # fmt: skip
def test_an_error_of_an_argument_has_no_words_of_a_validator(name, argument, value):
    with pytest.raises(AsyndganError, match=": give a") as caught:
        CALLS[name](**{argument: value})
    for word in ("instance", "valid", "pydantic", "Input"):
        assert word not in str(caught.value)


def test_an_error_names_arguments_and_no_options(phantoms, tmp_path):
    with pytest.raises(AsyndganError) as caught:
        asyndgan.generate("nuclei", tmp_path / "set", like=phantoms["north"])
    assert "Name with like the data set of a site" in str(caught.value)
    assert "--" not in str(caught.value)


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
