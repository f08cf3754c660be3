"""Tables: their files, their encoding, what a summary tells, and their networks."""

import gzip
import json
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from asyndgan.auditing import answering
from asyndgan.auditing.membership import Attack, attack
from asyndgan.auditing.records import RecordsAudit
from asyndgan.cli import app
from asyndgan.engines.setup import Answering, SiteSetup
from asyndgan.errors import CohortError, DataError, PolicyError, RecipeError, RunError
from asyndgan.models import Sizes
from asyndgan.models.parts import build_discriminator, build_generator, condition_maps, site_noise
from asyndgan.privacy import Policy, Released
from asyndgan.privacy.door import open_release
from asyndgan.privacy.ledger import read as read_ledger
from asyndgan.recipe import Recipe
from asyndgan.recipe.table import TableColumn, TableSection
from asyndgan.runs import load_recipe
from asyndgan.runs.study import Study
from asyndgan.tables.check import checked
from asyndgan.tables.cohort import load_records, read_for
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.planning import plan_from, plan_tables
from asyndgan.tables.schema import Schema, is_table, schema_of
from asyndgan.tables.summary import GROUP, LEAST, Summary, check_schema, loaded, planned, summarised
from asyndgan.tables.table import Table, check_apart, equal_records, nearly_equal, shared_records
from asyndgan.wire.messages import ANSWERS, Describe, Described, unpack

SCHEMA: dict[str, Any] = {
    "target": "bad",
    "columns": {
        "income": {"kind": "numeric", "missing": True},
        "loans": {"kind": "integer"},
        "term": {"kind": "categorical", "categories": ["short", "long, fixed"], "missing": True},
        "bad": {"kind": "categorical", "categories": ["no", "yes"]},
    },
}
PRIVATE = ("privacy.kind=discriminator", "privacy.noise=2", "training.steps=10")
HEADER = "income,loans,term,bad\n"


def stored(folder: Path, rows: str | bytes, schema: object = SCHEMA) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(schema))
    whole = HEADER.encode() + rows.encode() if isinstance(rows, str) else rows
    (folder / "records.csv").write_bytes(whole)
    return folder


def drawn(folder: Path, count: int = 200, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    rows = [
        f"{random.lognormal(10):.2f}" * (random.random() < 0.9)
        + f",{random.poisson(2)},{random.choice(['short', chr(34) + 'long, fixed' + chr(34), ''])}"
        + f",{random.choice(['no', 'no', 'yes'])}\n"
        for _ in range(count)
    ]
    return stored(folder, "".join(rows))


def test_a_table_is_read_with_the_types_of_its_schema(tmp_path):
    folder = stored(tmp_path, '1.5,2,short,no\r\n,3,"long, fixed",yes\r\n-2e3,-4,,no\r\n')
    assert is_table(folder)
    for path in (folder, folder / "records.csv"):
        records = Table.read(path).records
        assert [str(kind) for kind in records.dtypes] == ["Float64", "Int64", "string", "string"]
        assert records["income"].to_list() == [1.5, pd.NA, -2000.0]
        assert records["loans"].to_list() == [2, 3, -4]
        assert records["term"].to_list() == ["short", "long, fixed", pd.NA]


def test_a_column_that_tells_people_apart_is_never_learned(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    ages, doses = draw.integers(20, 90, 300), np.round(draw.random(300) * 50, 3)
    wide = draw.permutation(10**6)[:300]
    fine, strange = [("age", ages), ("dose", doses), ("mm3", wide + 0.5)], [
        ("number", 500_000 + 7 * np.arange(300)), ("row", draw.permutation(300)),
        ("patient_id", wide), ("patId", np.repeat(wide[:100], 3)), ("MRN", wide), ("whole", wide),
    ]  # fmt: skip
    kinds = {
        **{name: {"kind": "integer"} for name in dict(fine + strange)},
        "dose": {"kind": "numeric"},
    }
    kinds["mm3"] = {"kind": "numeric"}
    for name, values in [*fine, *strange]:
        columns = {name: kinds[name], "bad": SCHEMA["columns"]["bad"]}
        rows = "".join(f"{one},{('no', 'yes')[n % 2]}\n" for n, one in enumerate(values))
        folder = tmp_path / name
        stored(folder, f"{name},bad\n{rows}".encode(), {"target": "bad", "columns": columns})
        if (name, values) in fine:
            Table.read(folder)
            continue
        for call in (Table.read, lambda place: plan_tables({"a": place})):
            with pytest.raises(DataError, match=f"column '{name}' .* as an identifier has"):
                call(folder)
    columns = {"whole": {"kind": "numeric"}, "bad": SCHEMA["columns"]["bad"]}
    (tmp_path / "whole/schema.json").write_text(json.dumps({"target": "bad", "columns": columns}))
    Table.read(tmp_path / "whole")  # as the error says: it was measured


ODD: dict[str, tuple[Callable[[int], object], str]] = {
    "a sentinel": (lambda n: -999 if n % 9 == 0 else n % 40, "12% of column 'income' .* are -999"),
    "a slip": (lambda n: 9999 if n == 3 else n % 40, r"\(1 of 100 records\) hold 1 value, far"),
    "a constant": (lambda _: 5, "one value only"),
    "a date": (lambda n: f"202301{n % 28 + 1:02d}", "holds dates"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_a_column_may_not_be_meant_to_hold_is_noted(kind: str, tmp_path: Path) -> None:
    value, words = ODD[kind]
    stored(tmp_path / "a", "".join(f"{value(n)},{n % 5},short,no\n" for n in range(100)))
    (report,) = checked([tmp_path / "a"])
    (note,) = [note for note in report.notes if "'income'" in note]
    assert re.search(words, note)
    assert any("holds 'no' in every record" in note for note in report.notes)


def test_two_sites_in_other_units_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for site, unit in (("a", 1), ("b", 1000)):
        rows = (f"{unit * (20 + n % 37)},{n % 5},short,{('no', 'yes')[n % 2]}\n" for n in range(99))
        stored(tmp_path / site, "".join(rows))
    plan_tables({site: tmp_path / site for site in "ab"})
    (note,) = [one for one in caplog.messages if "times" in one]
    assert re.match(r"column 'income' is about [\d,]{5} times as large in b as in a\.", note)
    *_, last = checked([tmp_path / "a", tmp_path / "b"])
    assert any(re.search(r"times as large in \S*b\S* as in ", note) for note in last.notes)


WINDOWS = {
    "NA words": ("NA,2,short,no\n", "it is 'NA': leave a missing value empty"),
    "a date": ("2023-01-15,2,short,no\n", "it is a date: write an age"),
    "capitals": ("1,2,SHORT,no\n", "differs from one in capitals or blanks"),
    "names with blanks": (b"income, loans, term, bad\n1,2,short,no\n", "skipinitialspace=True"),
    "an index": (b",income,loans,term,bad\n0,1,2,short,no\n", "to_csv(FILE, index=False)"),
    "a comma at the end": (b"income,loans,term,bad,\n1,2,short,no,\n", "end in a comma"),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_what_other_programs_write_is_told_by_its_cause(kind: str, tmp_path: Path) -> None:
    rows, words = WINDOWS[kind]
    with pytest.raises(DataError) as caught:
        Table.read(stored(tmp_path, rows))
    assert words in str(caught.value)


HOSTILE = {
    "a text for a number": ("x,2,short,no\n", "'income': the value in line 2 is no number"),
    "a formula for a number": ("=1+1,2,short,no\n", "'income': the value in line 2 is no number"),
    "digits of another script": ("1,\u0661,short,no\n", "'loans': the value in line 2 is no"),
    "infinity": ("inf,2,short,no\n", "is no number"),
    "a vast number": ("1e300,2,short,no\n", "is no number"),
    "an unknown category": ("1,2,=cmd|' /C calc'!A0,no\n", "'term': the value in line 2 is not"),
    "a missing value": ("1,,short,no\n", "'loans': the value in line 2 is missing"),
    "a short row": ("1,2,short,no\n1,2,no\n", "line 3 has 3 fields, and 4 are wanted"),
    "a long row": ("1,2,short,no,5\n", "line 2 has 5 fields"),
    "a huge field": (f"1,2,{'a' * 200_000},no\n", "line 2: field larger than field limit"),
    "an open quotation": ('1,2,"short,no\n' + "1,2,short,no\n" * 100, "line"),
    "no record": ("", "holds no record"),
    "a zero byte": (HEADER.encode() + b"1,2,sh\0ort,no\n", "holds a zero byte"),
    "Latin-1": (HEADER.encode() + b"1,2,caf\xe9,no\n", "is not in UTF-8"),
    "no header": (b"1,2,short,no\n", "its columns are not those of schema.json"),
    "a line of a million fields": (b"x," * 10**6, "has a line of over 524288 characters"),
    "semicolons": ((HEADER + "1,2,short,no\n").replace(",", ";").encode(), "by ';': save"),
    "a column twice": (b"income,loans,term,bad,bad\n1,1,short,no,no\n", "twice (bad)"),
    "gzip": (gzip.compress(HEADER.encode()), "is compressed. Unpack it"),
    "a decimal comma": ('"1,5",2,short,no\n', "numbers have ',' in them: write 1234.5"),
    "a missing class, mended": ("1,2,short,\n", "leave such records out"),
    "blank lines before": ("\n\n1,2,short,no\n\n1,x,short,no\n", "value in line 6 is no number"),
    "a line break in quotes before": ('1,2,"sh\nort",no\n', "'term': the value in line 2 is not"),
    "a break in quotes, then a fault": ('"1\n",2,short,no\n1,2,short\n', "line 4 has 3 fields"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_malformed_table_ends_in_an_error_that_names_its_place(tmp_path, kind):
    rows, words = HOSTILE[kind]
    with pytest.raises(DataError) as caught:
        Table.read(stored(tmp_path, rows))
    assert words in str(caught.value)
    assert "calc" not in str(caught.value)  # nor any other value of a record
    assert len(str(caught.value)) < 600


SCHEMAS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no target": (lambda s: s.pop("target"), "target"),
    "a numeric target": (lambda s: s.update(target="loans"), "must be a categorical column"),
    "one class": (
        lambda s: s["columns"]["bad"].update(categories=["no"]), "must be a categorical column",
    ),
    "an unknown kind": (lambda s: s["columns"]["loans"].update(kind="date"), "numeric"),
    "a formula": (
        lambda s: s["columns"]["term"].update(categories=["=1+1", "b"]), "takes for a formula",
    ),
    "a formula as name": (lambda s: s["columns"].update({"@x": {"kind": "numeric"}}), "formula"),
    "no categories": (lambda s: s["columns"]["term"].pop("categories"), "categories are listed"),
    "knots of one number only": (
        lambda s: s["columns"]["loans"].update(knots=[0, 9]), "knots stand at every numeric",
    ),
    "shares without knots": (
        lambda s: s.update(shares={"no": 0.5, "yes": 0.5}), "knots stand at every numeric",
    ),
    "shares above one": (lambda s: s.update(shares={"no": 0.9, "yes": 0.9}), "must sum to 1"),
    "a slip of a key": (lambda s: s.update(postive="yes"), "Did you mean 'positive'?"),
    "too many columns": (
        lambda s: s["columns"].update({f"c{n}": {"kind": "numeric"} for n in range(300)}), "256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_malformed_schema_ends_in_an_error(tmp_path, kind):
    change, words = SCHEMAS[kind]
    schema = json.loads(json.dumps(SCHEMA))
    change(schema)
    with pytest.raises(DataError, match="is no schema of a table") as caught:
        Table.read(stored(tmp_path, "1,2,short,no\n", schema))
    assert words in str(caught.value)


@st.composite
def tables(draw: st.DrawFn) -> tuple[TableSection, pd.DataFrame]:
    """A table and records of it, of which every value lies within the knots."""
    count = draw(st.integers(1, 30))
    columns, records = [], {}
    for number in range(draw(st.integers(1, 5))):
        name, missing = f"c{number}", draw(st.booleans())
        kind = draw(st.sampled_from(["numeric", "integer", "categorical"]))
        absent = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        if kind == "categorical":
            names = tuple(draw(st.sets(st.sampled_from("abcdef"), min_size=1)))
            values: Any = [draw(st.sampled_from(names)) for _ in range(count)]
            columns.append(TableColumn(name=name, kind=kind, missing=missing, categories=names))
        else:
            knots = sorted(draw(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20)))
            values = [draw(st.integers(knots[0], knots[-1])) for _ in range(count)]
            columns.append(TableColumn(name=name, kind=kind, missing=missing, knots=tuple(knots)))
        own = [None if missing and gone else v for v, gone in zip(values, absent, strict=True)]
        types = {"numeric": "Float64", "integer": "Int64", "categorical": "string"}
        records[name] = pd.Series(own, dtype=types[kind])
    classes = [draw(st.sampled_from(["no", "yes"])) for _ in range(count)]
    records["bad"] = pd.Series(classes, dtype="string")
    table = TableSection(target="bad", classes={"no": 0.5, "yes": 0.5}, columns=tuple(columns))
    return table, pd.DataFrame(records)


@given(tables(), st.integers(0, 100))
def test_an_encoded_table_decodes_to_the_same_columns_kinds_and_values(drawn, seed):
    table, records = drawn
    encoder = Encoder(table)
    images = encoder.encode(records, np.random.default_rng(seed))
    assert images.shape == (len(records), 1, table.width)
    assert images.abs().max() <= 1
    back = encoder.decode(images, encoder.encode_classes(records))
    assert list(back.columns) == list(records.columns)
    for column in table.columns:
        one, other = back[column.name], records[column.name]
        if column.kind == "categorical":
            assert one.fillna("?").tolist() == other.fillna("?").tolist()
            continue
        assert str(one.dtype) == str(other.dtype)
        assert (one.isna() == other.isna()).all()
        # Float32 keeps a place to 1e-7 of the whole range of a column.
        spread = column.knots[-1] - column.knots[0]
        gap = (one - other).abs().fillna(0).astype("float64")
        assert gap.max() <= (0 if column.kind == "integer" else 1e-4 * spread + 1e-9)
    assert back["bad"].tolist() == records["bad"].tolist()


@pytest.mark.parametrize("values", [[20231231, 99999999], [10**15, 3, -(10**15)]])
def test_whole_values_that_many_share_are_kept_exactly(tmp_path, values):
    rows = "".join(
        f"1,{value},short,{'no' if n % 2 else 'yes'}\n" for value in values for n in range(400)
    )
    table = Table.read(stored(tmp_path, rows))
    section = planned({"a": summarised(table)})
    assert set(values) <= set(section.columns[1].knots)
    encoder = Encoder(section)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = encoder.encode(table.records, np.random.default_rng(0))
    back = encoder.decode(images, encoder.encode_classes(table.records))
    assert back["loans"].tolist() == table.records["loans"].tolist()


def test_a_summary_tells_no_value_of_a_single_record(tmp_path):
    table = Table.read(drawn(tmp_path, 205))
    summary = summarised(table)
    income = sorted(table.records["income"].dropna())
    means = summary.columns["income"].means
    assert len(means) == len(income) // GROUP
    assert not set(means) & set(income)
    assert means[0] > income[0]
    assert means[-1] < income[-1]
    assert all(count % LEAST == 0 for count in summary.classes.values())
    assert not summary.columns["term"].means


def test_a_table_of_too_few_records_gives_no_summary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a summary takes 28 at least"):
        summarised(Table.read(drawn(tmp_path, 12)))


def test_a_site_counts_in_a_column_by_the_records_that_hold_a_value(tmp_path):
    full, sparse = (
        stored(tmp_path / name, "".join(
            f"{base + n / count if n < some else ''},1,short,{'no' if n % 2 else 'yes'}\n"
            for n in range(count)
        ))
        for name, base, some, count in (("full", 0, 1500, 1500), ("sparse", 10, 1500, 6000))
    )  # fmt: skip
    table = planned({p.name: summarised(Table.read(p)) for p in (full, sparse)})
    assert (np.array(table.columns[0].knots) < 5).mean() == pytest.approx(0.5, abs=0.02)


def test_an_extreme_record_does_not_move_a_summary(tmp_path):
    table = Table.read(drawn(tmp_path, 300))
    usual = summarised(table)
    highest = table.records["income"].idxmax()
    table.records.loc[highest, "income"] = 1e12
    assert summarised(table) == usual


def declaring(schema: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    """The schema with knots and shares, from which a recipe is planned without a record."""
    declared: dict[str, Any] = json.loads(json.dumps(schema)) | {"shares": {"no": 0.7, "yes": 0.3}}
    declared["columns"]["income"]["knots"] = [0, 20_000, 50_000, 1e6]
    declared["columns"]["loans"]["knots"] = [0, 10]
    return declared


def test_a_schema_that_declares_knots_and_shares_is_planned_without_a_record(tmp_path):
    folder = stored(tmp_path / "a", "", declaring())  # no record to look at
    other = stored(tmp_path / "b", "", declaring())
    recipe = plan_tables({"a": folder, "b": other / "schema.json"}, ["privacy.kind=discriminator"])
    assert recipe is not None and recipe.table is not None
    assert recipe.table.source == "declared"
    assert recipe.table.classes == {"no": 0.7, "yes": 0.3}
    assert [column.knots for column in recipe.table.columns][:2] == [
        (0, 20_000, 50_000, 1e6), (0, 10),
    ]  # fmt: skip
    with pytest.raises(CohortError, match="c and a declare other columns, knots or shares"):
        plan_tables({"a": folder, "c": drawn(tmp_path / "c")})
    with pytest.raises(CohortError, match="declares no knots and shares"):
        plan_tables({"c": tmp_path / "c" / "schema.json"})
    with pytest.raises(RecipeError, match="comes from fingerprints of records"):
        plan_tables({"c": tmp_path / "c"}, ["privacy.kind=discriminator"])


def test_check_takes_of_tables_what_a_plan_takes_of_them(tmp_path):
    sites = [stored(tmp_path / name, (drawn(tmp_path / name, 25, seed) / "records.csv")
                    .read_text().removeprefix(HEADER), declaring())
             for seed, name in enumerate("ab")]  # fmt: skip
    assert not any(one.faults for one in checked(sites))  # too few to be summarised
    for other in (declaring() | {"shares": {"no": 0.8, "yes": 0.2}}, SCHEMA):
        drawn(tmp_path / "b", 200, 1)
        (sites[1] / "schema.json").write_text(json.dumps(other))
        (fault,) = checked(sites)[-1].faults
        assert "declare other columns, knots or shares, or one of them declares none" in fault
        with pytest.raises(CohortError, match="declare other columns, knots or shares"):
            plan_tables({"a": sites[0], "b": sites[1]})


@pytest.mark.parametrize("own", ["none", "other knots"])
def test_a_recipe_that_calls_itself_declared_is_refused_where_a_site_declares_otherwise(
    tmp_path, own
):
    folder = drawn(tmp_path / "a")
    (folder / "schema.json").write_text(json.dumps(declaring()))
    recipe = plan_tables({"a": folder}, PRIVATE)
    assert recipe is not None
    assert len(load_records(recipe, folder, "a"))
    schema = declaring() if own != "none" else SCHEMA
    if own == "other knots":
        schema["columns"]["loans"]["knots"] = [0, 11]
    (folder / "schema.json").write_text(json.dumps(schema))
    with pytest.raises(CohortError, match="does not declare the same ones"):
        load_records(recipe, folder, "a")


def described(file: Path, policy: Policy, books: Path) -> Released:
    """What a site with this policy sends to somebody who plans a recipe."""
    door = open_release(None, policy, books, "a", 0)
    try:
        told = file.with_name("policy.toml")
        told.write_text(policy.to_toml())
        setup = SiteSetup("a", file.parent, books, fingerprint=file, policy=told)
        return Answering(setup, door, answering.answered).handle(Describe(run="ab"))
    finally:
        door.close()


def test_a_summary_leaves_by_policy_and_ledger_alone(tmp_path):
    summary = summarised(Table.read(drawn(tmp_path / "a")))
    file, books = tmp_path / "seen.json", tmp_path / "books"
    file.write_text(summary.model_dump_json())
    for text, reason in (
        ("", "leaves.fingerprint"),
        ("[leaves]\nfingerprint = true\n[privacy]\nepsilon = 3", "covers no fingerprint"),
        ("[leaves]\nfingerprint = true\n[allows]\nfewest_patients = 11", "of fewer records"),
    ):
        with pytest.raises(PolicyError, match=reason):
            described(file, Policy.from_toml(text), books)
    assert not list(read_ledger(books / "ledger.jsonl"))
    released = described(file, Policy.from_toml("[leaves]\nfingerprint = true"), books)
    sent = unpack(released.payload, ANSWERS, limit=2**20)
    assert isinstance(sent, Described) and sent.fingerprint == summary
    assert plan_from({"a": summary}) == plan_tables({"a": tmp_path / "a"})
    (entry,) = read_ledger(books / "ledger.jsonl")
    assert (entry.kind, entry.bare) == ("described", "fingerprint")
    assert entry.size == len(released.payload)
    # No epsilon can be promised of these records any more.
    private = plan_tables({"b": stored(tmp_path / "b", "", declaring())}, PRIVATE)
    with pytest.raises(PolicyError, match="1 messages with fingerprint that left without privacy"):
        open_release(private, Policy.from_toml("[privacy]\nepsilon = 3"), books, "b", 200)


def test_a_site_that_lets_no_fingerprint_out_takes_no_part_in_a_run_by_fingerprints(tmp_path):
    recipe, _ = recipe_of(tmp_path)
    unmeasured = "[allows]\nunmeasured = true\n[leaves]\nmasks = 'transient'\n"
    ((_, refused),) = Policy.from_toml(unmeasured).refused_by(recipe)
    assert "leaves.fingerprint is false" in refused
    assert not Policy.from_toml(f"{unmeasured}fingerprint = true").refused_by(recipe)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"no": 0, "yes": 0}},
        {"columns": {}},
        {"more": 1},
        {"kind": "x"},
        {"columns": {"age": {"kind": "numeric", "missing": False, "means": [2, 1]}}},
        {"columns": {"age": {"kind": "categorical", "missing": False, "means": [1, 2]}}},
    ],
)
def test_a_strangers_summary_is_checked(tmp_path, change):
    file = tmp_path / "s.json"
    plain = summarised(Table.read(drawn(tmp_path / "a"))).model_dump(mode="json")
    file.write_text(json.dumps(plain))
    assert loaded(file).target == "bad"
    file.write_text(json.dumps(plain | change))
    with pytest.raises(DataError, match="is no summary of a table"):
        loaded(file)


def recipe_of(tmp_path: Path, *overrides: str) -> tuple[Recipe, dict[str, Path]]:
    sites = {name: drawn(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))}
    recipe = plan_tables(sites, ["training.batch=8", "generator.width=16", *overrides])
    assert recipe is not None
    return recipe, sites


@pytest.mark.parametrize("formula", ["=1+1", "\uff1d1", "a "])
@pytest.mark.parametrize("name", ["income", "short"])
def test_no_schema_summary_or_recipe_holds_a_name_that_a_spreadsheet_runs(tmp_path, name, formula):
    recipe, sites = recipe_of(tmp_path)
    summary = summarised(Table.read(sites["a"]))
    kinds: list[tuple[type[BaseModel], Any]] = [
        (Schema, SCHEMA),
        (Summary, summary.model_dump(mode="json")),
        (Recipe, recipe.to_tables()),
    ]
    for kind, tables in kinds:
        text = json.dumps(tables)
        kind.model_validate_json(text)
        with pytest.raises(ValueError, match=r"takes for a formula|ends with a space"):
            kind.model_validate_json(text.replace(f'"{name}"', json.dumps(formula)))


def test_synthetic_records_are_nobodys_real_ones(tmp_path):
    recipe, sites = recipe_of(tmp_path)
    fake = drawn(tmp_path / "fake")
    (fake / "schema.json").write_text(json.dumps(SCHEMA | {"synthetic": True}))
    with pytest.raises(CohortError, match="the test set: its table is synthetic"):
        read_for(recipe, fake, "the test set")
    with pytest.raises(CohortError, match=r"fake/records\.csv: its table is synthetic"):
        plan_tables({"a": sites["a"], "b": fake})
    for reports in (checked([sites["a"]], fake), checked([fake])):
        assert "its table is synthetic" in reports[-1].faults[0]
    with pytest.raises(CohortError, match="its table is synthetic"):
        raise CliRunner().invoke(app, ["fingerprint", str(fake)]).exception or AssertionError


def test_records_of_one_table_in_another_are_told_if_chance_does_not_bring_them(tmp_path):
    north, south, test = (
        drawn(tmp_path / name, seed=seed) for seed, name in enumerate(("n", "s", "t"))
    )
    assert not any(one.faults for one in checked([north, south], test))
    rows = (north / "records.csv").read_text().splitlines(keepends=True)[1:]
    for folder, copied in ((south, 90), (test, 60)):
        with (folder / "records.csv").open("a") as file:
            file.writelines(rows[:copied])
    _, at_sites, of_test = (report.faults for report in checked([north, south], test))
    # Of 90 that were copied; the others occur more than once.
    (fault,) = at_sites
    assert f"85 of the 200 records of {north}" in fault and f"are also in {south}" in fault
    assert len(of_test) == 1 and "test records are also at a site" in of_test[0]
    few, many = Table.read(test).records, Table.read(north).records
    with pytest.raises(RunError, match=r"of the 260 records .* Give others with --test"):
        check_apart(few, [many], "--test")


def test_records_of_few_values_are_not_those_of_another_table():
    random = np.random.default_rng(0)
    one, other = (
        pd.DataFrame({"sex": random.choice(["f", "m"], 60), "age": random.choice([20, 35], 60)})
        for _ in range(2)
    )
    assert equal_records(one, [other]) == 60 and shared_records(one, [other]) == 0
    check_apart(one, [other], "--test")


def test_a_rare_class_is_drawn_more_often_in_whatever_order_classes_come(tmp_path):
    first = "yes"
    schema = json.loads(json.dumps(SCHEMA))
    schema["columns"]["bad"]["categories"] = sorted(("no", "yes"), key=lambda name: name != first)
    rows = "".join(f"{n % 40},1,short,{'yes' if n % 10 == 0 else 'no'}\n" for n in range(200))
    folder = stored(tmp_path, rows, schema)
    recipe = plan_tables({"a": folder})
    assert recipe is not None
    cohort = load_records(recipe, folder, "a")
    weights = cohort.weights
    assert weights is not None
    yes = cohort.conditions == schema["columns"]["bad"]["categories"].index("yes")
    assert float(weights[yes].mean() / weights[~yes].mean()) == pytest.approx(4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["columns"].pop("term"), "no column 'term', which the recipe has"),
        (lambda s: s["columns"]["loans"].update(kind="numeric"), "another column 'loans'"),
        (lambda s: s["columns"]["loans"].update(missing=True), "another 'missing' of .* 'loans'"),
        (lambda s: s.update(target="term") or s["columns"]["term"].update(missing=False),
         "another target"),
    ],
)  # fmt: skip
def test_a_schema_that_is_not_the_recipes_is_told_by_the_name_of_what_differs(
    tmp_path, change, told
):
    recipe, sites = recipe_of(tmp_path)
    schema = json.loads(json.dumps(SCHEMA))
    change(schema)
    (sites["a"] / "schema.json").write_text(json.dumps(schema))
    with pytest.raises(CohortError, match=f"site a: .*{told}"):
        check_schema(recipe.table, schema_of(sites["a"]), "site a")
    with pytest.raises((CohortError, DataError)):
        load_records(recipe, sites["a"], "a")


def networks(recipe: Recipe, count: int, seed: int = 0) -> tuple[Any, Any, torch.Tensor, Any]:
    sizes = Sizes(2, 1, 1)
    torch.manual_seed(seed)
    generator, judge = build_generator(recipe, sizes), build_discriminator(recipe, sizes)
    classes = torch.arange(count) % 2
    maps = condition_maps(classes, kind="class", labels=2, space=recipe.space)
    noise = site_noise(recipe, [""] * count, recipe.space, torch.Generator().manual_seed(seed))
    return generator, judge, maps, noise


def test_a_generator_makes_records_that_a_table_can_hold(tmp_path):
    recipe, _ = recipe_of(tmp_path)
    generator, judge, maps, noise = networks(recipe, 64)
    images = generator(maps, noise)
    income, present, loans, term = images[:, 0].split([1, 2, 1, 3], dim=1)
    for chosen in (present, term):
        assert ((chosen.detach() + 1).abs() * (chosen.detach() - 1).abs() < 1e-5).all()
        assert torch.allclose(chosen.sum(1), torch.tensor(2.0 - chosen.shape[1]), atol=1e-5)
    missing = present[:, 1] > 0
    assert 0 < missing.sum() < 64
    assert (income[missing] == 0).all()
    assert loans.abs().max() <= 1
    judge(images, maps).score.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def test_init_names_the_tables_of_a_folder_and_other_commands_take_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("north", "south")):
        drawn(tmp_path / "data", seed=seed).joinpath("records.csv").rename(f"data/{name}.csv")
    stored(tmp_path / "data", "7.5,2,short,no\n" * 30).joinpath("records.csv").rename(
        "data/test.csv"
    )
    (tmp_path / "notes.csv").touch()  # no schema beside it

    def said(*words):
        done = CliRunner().invoke(app, words)
        assert done.exception is None, done.output
        return done.output

    assert "masks" not in said("init", "data")
    for word in ("patient", "mask", "recipe list", "folder of"):
        assert word not in Path("study.toml").read_text()
    study = Study.load()
    assert study.sites == {name: Path(f"data/{name}.csv") for name in ("north", "south")}
    assert study.test == Path("data/test.csv") and study.overrides == []
    assert load_recipe(str(tmp_path / "recipe.toml")).table
    assert "No faults" in said("check")
    (tmp_path / "data" / "south.csv").unlink()
    with pytest.raises(RunError, match=r"south\.csv does not exist"):
        raise CliRunner().invoke(app, ["check"]).exception or AssertionError
    with pytest.raises(DataError, match=r"schema\.json"):
        raise (
            CliRunner().invoke(app, ["init", "notes.csv", "--out", "new/"]).exception
            or AssertionError
        )


@cache
def attacked(members: int, others: int) -> Attack:
    return attack("bank", np.linspace(0, 1, members), np.linspace(0, 1, others))


def audited(members: int, others: int, copies: int, matches: int, near: int) -> RecordsAudit:
    return RecordsAudit(
        generator_sha256="0", attacks=[attacked(members, others)], copies=[copies],
        matches=matches, near=near, confirmed={"bank": True}, uncompared=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ((600, 300, 0, 0, 0), ""),
        ((600, 300, 1, 0, 0), "chance does not explain it"),
        ((600, 300, 3, 0, 4), ""),  # others that come close show that chance can
        ((600, 300, 8, 0, 4), "members are copied in all columns"),  # more than chance brings
        ((600, 100, 1, 0, 0), "too few to know whether chance does that"),
    ],
)
def test_a_copied_member_is_refused_unless_chance_explains_it(counts, why):
    found = " ".join(audited(*counts).objections())
    assert (why in found) if why else not found
    members, others, copies, matches, near = counts
    assert audited(*counts).told == (
        f"{copies} of {members} members equal a synthetic record in all columns. By chance "
        f"{matches} of {others} others do, and {near} in all columns but one or in all"
    )


@pytest.mark.parametrize("cardinality", [(200, 200, 10), (3,) * 12])
def test_chance_copies_of_coarse_records_raise_no_alarm(cardinality):
    random, refused = np.random.default_rng(0), 0

    def drawn(count):
        columns = enumerate(cardinality)
        return pd.DataFrame(
            {f"c{n}": pd.Series((m * random.random(count) ** 1.5) // 1, dtype="Float64")
             for n, m in columns}
        )  # fmt: skip

    for _ in range(20):
        members, others, made = drawn(300), drawn(150), drawn(900)
        copies, matches = (equal_records(one, [made]) for one in (members, others))
        found = audited(300, 150, copies, matches, nearly_equal(others, made))
        refused += "chance does not explain it" in " ".join(found.objections())
    assert refused <= 3  # of 20, at a level of 0.05
