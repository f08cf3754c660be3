"""Recipes, policies, suites and runs of strangers: read, or refused by one of our errors."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.errors import AsyndganError
from asyndgan.evaluation.suite import Suite
from asyndgan.privacy import Policy, ledger
from asyndgan.privacy.accounting import Account
from asyndgan.recipe import Recipe, known_keys
from asyndgan.runs import RunFolder, load_recipe

Read = Callable[[str], object]
READERS: dict[str, Read] = {
    "recipe": Recipe.from_toml,
    "policy": Policy.from_toml,
    "suite": Suite.from_toml,
}
LONGEST_ERROR = 5_000


def refused_or_read(read: Read, text: str) -> str:
    """The error, if there is one; any other than ours fails the test."""
    try:
        read(text)
    except AsyndganError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 100_000,
        "[" + ".".join("a" * 5000) + "]",
        "[training]\nsteps=" + "9" * 5000,
        'name="' + "x" * 100_000 + '"',
        "name=1979-05-27",
        "name=\x00",
        "=",
        "[[name]]",
        "[loss]\npaired_l1=nan",
        'name = "a\\u001b[31mred"',
        "\n".join(f"k{number}=1" for number in range(5000)),
        "a" + ".a" * 20_000 + "=1",
        "\n".join(f"[site_discriminators.s{number}]\nwidth=8" for number in range(2000)),
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_a_text_made_to_hurt_is_refused_in_few_words(reader: Read, text: str) -> None:
    since = time.monotonic()
    error = refused_or_read(reader, text)
    assert time.monotonic() - since < 5
    assert error
    assert "\x1b" not in error
    assert len(error) < LONGEST_ERROR


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers()),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(known_keys())), scalars)
def test_any_value_of_any_key_of_a_recipe_is_taken_or_refused_by_our_error(
    key: str, value: object
) -> None:
    tables: dict[str, object] = {}
    inner = tables
    *path, last = key.split(".")
    for part in path:
        inner = inner.setdefault(part, {})  # type: ignore[assignment]
    inner[last] = value
    try:
        recipe = Recipe.from_tables(tables)
    except AsyndganError:
        return
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_by_our_error(text: str) -> None:
    for read in READERS.values():
        refused_or_read(read, text)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    with path.open("wb") as file:
        file.truncate(2**34)  # sparse: sixteen gigabytes of nothing
    for read in (load_recipe, lambda name: Policy.from_file(Path(name))):
        with pytest.raises(AsyndganError):
            read(str(path))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"run": 1}', '{"x": NaN}', "\ud800"]
)
def test_a_run_folder_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.facts_file.write_bytes(content.encode("utf-8", "surrogatepass"))
    run.recipe_file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(AsyndganError):
        run.facts()
    assert refused_or_read(lambda _: run.recipe(), "") or not content


def test_what_a_stranger_says_of_his_run_is_no_longer_than_it_may_be(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.facts_file.write_text(json.dumps({"run": "a" * 2**21}))
    with pytest.raises(AsyndganError):
        run.facts()


@pytest.mark.parametrize(
    "change",
    [{"labels": {"x": "y"}}, {"labels": 3}, {"space": "big"}, {"modalities": None}],
    ids=str,
)
def test_a_run_that_says_nonsense_of_what_it_paints_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    facts = {"run": "1f", "version": "0", "recipe_digest": "", "engine": "inprocess"}
    run.facts_file.write_text(json.dumps(facts | change))
    with pytest.raises(AsyndganError):
        _ = run.facts().scope


@pytest.mark.parametrize("line", ["[" * 50_000, "{}", "\ud800", '{"number": 1}'])
def test_a_ledger_that_is_none_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(AsyndganError):
        list(ledger.read(path))
    path.write_text("")
    path.with_suffix(".head").write_text('{"number": Infinity, "digest": ""}')
    with pytest.raises(AsyndganError):
        list(ledger.read(path))


def test_an_account_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "privacy.json"
    for content in ('[{"noise": 1, "rate": 1, "uses": Infinity}]', "[" * 50_000, "3", "{"):
        path.write_text(content)
        with pytest.raises(AsyndganError):
            Account(path, None, epsilon=None, delta=1e-5)
