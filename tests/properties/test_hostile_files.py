"""Recipes, policies, suites and runs of strangers: read, or refused by one of our errors."""

import gzip
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.data.nnunet import read_mask
from asyndgan.errors import AsyndganError, DataError, RunError
from asyndgan.evaluation.suite import Suite
from asyndgan.privacy import Policy, ledger
from asyndgan.privacy.accounting import Account
from asyndgan.recipe import Recipe, known_keys
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.bank import MaskBank

Read = Callable[[str], object]
READERS: dict[str, Read] = {
    "recipe": Recipe.from_toml,
    "policy": Policy.from_toml,
    "suite": Suite.from_toml,
}
LONGEST_ERROR = 5_000
RECORD = (
    b'{"step": %d, "seconds": 1.5, "shares": {"north": 1.0}, "losses": {"north": {"adversarial": '
    b'0.5}}, "sent": 10, "received": 10}'
)


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


@pytest.mark.parametrize(
    "line",
    [b"{nonsense", b"[" * 100_000, b"[]", b'{"step": "x"}', b"\xff", b"{" * 2**21, RECORD % 0],
    ids=lambda line: line[:12].decode("ascii", "replace"),
)
def test_records_that_no_run_wrote_are_refused(line: bytes, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_bytes(RECORD % 0 + b"\n")
    assert len(run.metrics()) == 1
    run.metrics_file.write_bytes(RECORD % 0 + b"\n" + line + b"\n")
    with pytest.raises(RunError, match=r"metrics.jsonl is not what a run writes"):
        run.metrics()


def test_masks_that_no_run_wrote_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    for content in (b"nonsense", b"GIF89a" + bytes(20)):
        (tmp_path / "labelsTr" / "north-m00001.png").write_bytes(content)
        with pytest.raises(DataError, match=r"north-m00001\.png"):
            MaskBank(tmp_path)


@pytest.mark.parametrize("start", [0, 400, 352 + 2**28])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_volume_with_endless_extensions_is_refused_before_they_are_read(
    tmp_path: Path, order: str, start: int
) -> None:
    path = tmp_path / "bomb.nii.gz"
    extension = 2**28
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape((4, 4, 4))
    header.set_data_dtype(np.uint8)
    header["magic"] = b"n+1"
    header["vox_offset"] = start
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + b"\1\0\0\0" + struct.pack(f"{order}ii", extension, 6))
        for _ in range(2**8):
            file.write(bytes(2**20))
        file.write(bytes(64))
    tracemalloc.start()
    with pytest.raises(DataError, match="has extensions or a header of more than"):
        read_mask(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_volume_of_either_version_with_a_short_extension_is_read(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(values, np.eye(4))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a scanner's note"))
        for name in ("a.nii", "a.nii.gz"):
            nib.save(image, tmp_path / name)
            assert (read_mask(tmp_path / name).values == values).all()


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
