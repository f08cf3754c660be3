"""Recipes, policies, suites and runs of strangers: read, or refused by one of our errors."""

import gzip
import io
import json
import os
import re
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.record import read_audit
from asyndgan.errors import AsyndganError, DataError, RunError
from asyndgan.intake.check import check_folder
from asyndgan.intake.description import describe
from asyndgan.intake.labelling import read_mask
from asyndgan.intake.nnunet import read_image
from asyndgan.judging.asked import read_evaluation
from asyndgan.privacy import Policy, ledger
from asyndgan.privacy.accounting import Account
from asyndgan.recipe import Recipe, known_keys
from asyndgan.reports.usefulness import usefulness_of
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.store.info import DatasetInfo
from asyndgan.training import checkpoint
from lab.suite import Suite
from reading import used_by

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


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_by_our_error(text: str) -> None:
    for read in READERS.values():
        refused_or_read(read, text)


def test_a_run_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for content in ("", "{", "[]", "[" * 100_000, '{"run": 1}', '{"x": NaN}', "\ud800"):
        for file in (run.facts_file, run.recipe_file):
            file.write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(AsyndganError):
            run.facts()
        assert refused_or_read(lambda _: run.recipe(), "") or not content
    facts = {"run": "1f", "version": "0", "recipe_digest": "", "engine": "inprocess"}
    for change in ({"labels": {"x": "y"}}, {"labels": 3}, {"space": "big"}, {"modalities": None}):
        run.facts_file.write_text(json.dumps(facts | change))
        with pytest.raises(AsyndganError):
            _ = run.facts().scope


@pytest.mark.parametrize(
    "line",
    [b"{nonsense", b"[" * 100_000, b"[]", b'{"step": "x"}', b"\xff", b"{" * 2**21, RECORD % 1],
    ids=lambda line: line[:12].decode("ascii", "replace"),
)
def test_records_that_no_run_wrote_are_refused(line: bytes, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_bytes(RECORD % 1 + b"\n")
    assert len(run.metrics()) == 1
    run.metrics_file.write_bytes(RECORD % 1 + b"\n" + line + b"\n")
    with pytest.raises(RunError, match=r"metrics.jsonl is not what a run writes"):
        run.metrics()


def test_masks_that_no_run_wrote_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    for content in (b"nonsense", b"GIF89a" + bytes(20)):
        (tmp_path / "labelsTr" / "north-m00001.png").write_bytes(content)
        with pytest.raises(DataError, match=r"north-m00001\.png"):
            MaskBank(tmp_path)


def test_a_volume_of_either_version_with_a_short_extension_is_read(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(values, np.eye(4))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a scanner's note"))
        for name in ("a.nii", "a.nii.gz"):
            nib.save(image, tmp_path / name)
            assert (read_mask(tmp_path / name).values == values).all()


def test_a_ledger_or_an_account_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for line in ("[" * 50_000, "{}", "\ud800", '{"number": 1}'):
        path.write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
        with pytest.raises(AsyndganError):
            list(ledger.read(path))
    path.write_text("")
    path.with_suffix(".head").write_text('{"number": Infinity, "digest": ""}')
    with pytest.raises(AsyndganError):
        list(ledger.read(path))
    for content in ('[{"noise": 1, "rate": 1, "uses": Infinity}]', "[" * 50_000, "3", "{"):
        path.write_text(content)
        with pytest.raises(AsyndganError):
            Account(path, None, epsilon=None, delta=1e-5)


def readers(folder: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Every reader of a file that may come from somebody else: the file, and how it is read."""
    run, image = RunFolder(folder), folder / "imagesTr" / "ann_0000.png"
    image.parent.mkdir(exist_ok=True)
    info = DatasetInfo("x", ("T1",), {"a": 0}, ".png", ".png")
    of_paths: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "recipe": (folder / "r.toml", lambda path: load_recipe(str(path))),
        "policy": (folder / "p.toml", Policy.from_file),
        "account": (folder / "a.json", lambda path: Account(path, None, epsilon=1, delta=1e-5)),
        "ledger": (folder / "l.jsonl", lambda path: list(ledger.read(path))),
        "books": (folder / "b.jsonl", lambda path: ledger.Ledger(path, "0")),
        "facts": (run.facts_file, lambda _: run.facts()),
        "run's recipe": (run.recipe_file, lambda _: run.recipe()),
        "metrics": (run.metrics_file, lambda _: run.metrics()),
        "generator": (run.generator_file, lambda _: run.generator_digest()),
        "checkpoint": (folder / "state.safetensors", checkpoint.read),
        "data set": (folder / "dataset.json", lambda _: describe(folder)),
        "picture": (image, lambda path: read_image(path, 0, info)),
        "mask": (image, read_mask),
        "volume": (folder / "ann.nii.gz", read_mask),
        "audit": (folder / AUDIT_FILE, lambda _: read_audit(folder)),
        "site's evaluation": (folder / "evaluation.json", lambda _: read_evaluation(folder)),
        "evaluation": (
            folder / "evaluation.json", lambda _: usefulness_of(folder, "cd34", examples=True)
        ),
    }  # fmt: skip
    return {name: (path, partial(read, path)) for name, (path, read) in of_paths.items()}


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a vast file"])
def test_no_reader_waits_for_a_pipe_or_reads_a_device_or_more_than_memory_holds(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "names").mkdir()
    for name in readers(tmp_path / "names"):
        if kind == "a vast file" and name in ("ledger", "books"):
            continue  # a ledger is as long as what left; it is read by the line
        (folder := tmp_path / name.replace(" ", "_")).mkdir()
        path, read = readers(folder)[name]
        if kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        elif kind == "a folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(2**43)  # sparse
        found: list[BaseException] = []
        asking = threading.Thread(target=read_into, args=(read, found), daemon=True)
        asking.start()
        asking.join(60)
        assert found and isinstance(found[0], AsyndganError), (name, found)  # else it waits


def read_into(read: Callable[[], object], found: list[BaseException]) -> None:
    try:
        read()
    except BaseException as error:
        found.append(error)


def refused_soon(read: Callable[[], object], match: str) -> None:
    """Refused in few words, before it is parsed: no time or memory to speak of is taken."""
    tracemalloc.start()
    since = time.monotonic()
    with pytest.raises(AsyndganError, match=match) as found:
        read()
    assert time.monotonic() - since < 60  # seconds at most, on a machine at work
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert len(str(found.value)) < LONGEST_ERROR


def nifti(extensions: bytes, count: int = 1) -> bytes:
    """A packed volume behind the same extensions, over and over."""
    header = nib.Nifti1Header()
    header.set_data_shape((4, 4, 4))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352 + count * len(extensions)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(header.binaryblock + b"\1\0\0\0")
        for _ in range(count):
            file.write(extensions)
        file.write(bytes(64))
    return packed.getvalue()


def of_many_scans() -> bytes:
    """A JPEG whose last scan is there again and again."""
    packed = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), np.uint8)).save(packed, "JPEG", progressive=True)
    whole = packed.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 3000 + whole[-2:]


def of_one_strip() -> bytes:
    """A TIFF of very many pages, which are all in the same packed bytes."""
    strip, count = zlib.compress(bytes(8000 * 8000)), 60_000
    tags = {256: 8000, 257: 8000, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 8000}
    tags[279] = len(strip)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    size = 2 + len(entries) + 4
    start = 8 + len(strip)
    pages = (
        struct.pack("<H", len(tags)) + entries + struct.pack("<I", start + size * (number + 1))
        for number in range(count)
    )
    return b"II*\0" + struct.pack("<I", start) + strip + b"".join(pages) + bytes(4)


def in_a_circle() -> bytes:
    entry = struct.pack("<HHII", 256, 4, 1, 8)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a volume of very many parts": (
        ".nii.gz", lambda: gzip.compress(b"", mtime=0) * 400_000 + nifti(b""), "",
    ),
    "a volume behind a vast extension": (
        ".nii.gz", lambda: nifti(struct.pack("<ii", 2**31 - 16, 6) + bytes(2**20), 2**11),
        "more than 1 GB",
    ),
    "a JPEG of very many scans": (".jpg", of_many_scans, "more than 10 s"),
    "a TIFF of very many pages in one strip": (".tif", of_one_strip, "more than|claims"),
    "a TIFF whose pages are in a circle": (".tif", in_a_circle, "damaged"),
}  # fmt: skip
"""Ending and content of files of some megabytes that would take all, and what is said of them.

Some are read, where the machine is fast. EXPLORE=1 tries further ones.
"""
if settings.default.max_examples > 100:
    BOMBS |= {
        "a volume behind very many extensions": (
            ".nii.gz", lambda: nifti((struct.pack("<ii", 16, 6) + bytes(8)) * 2**10, 2**10), "",
        ),
        "a TIFF of very many tags": (
            ".tif", lambda: b"II*\0" + struct.pack("<IH", 8, 60000)
            + struct.pack("<HHII", 273, 4, 2**31, 8) * 60000, "damaged",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_takes_more_memory_or_time_than_a_file_may(name: str, tmp_path: Path) -> None:
    ending, content, match = BOMBS[name]
    path, good = tmp_path / f"bomb{ending}", tmp_path / "good.png"
    path.write_bytes(content())
    assert path.stat().st_size < 2**24
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(good)
    read_both = """
try:
    reading.image(Path(sys.argv[2]), most=1)
finally:  # by a process that was started anew
    assert (reading.mask(Path(sys.argv[3])).values == np.eye(8)).all()
"""
    seconds, kilobytes, said = used_by(read_both, path, good)
    assert re.search(match, said) and len(said) < LONGEST_ERROR
    assert said.startswith(f"{path}: ") or not match
    assert seconds < 20
    assert kilobytes < 1.2 * 2**20  # with the interpreter


@pytest.mark.parametrize(
    "line",
    ["k%d" + ".a" * 4000 + "=1", '"\u2028%d"' + '."\u2028"' * 1000 + "=1"],
    ids=["bare keys", "keys with signs that end a line elsewhere"],
)
@pytest.mark.parametrize("size", [2**17, 600_000])
def test_a_text_of_dotted_keys_is_refused_before_it_is_parsed(line: str, size: int) -> None:
    text = "\n".join(line % number for number in range(size // len(line)))
    refused_soon(lambda: Recipe.from_toml(text), r"TOML: (longer|a line of more) than")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("channel_names", {str(n): f"m{n}" for n in range(9999)}, "holds 9999 names"),
        ("channel_names", {f"x{n}": f"m{n}" for n in range(60)}, "channel_names is .*x0"),
        ("labels", {f"m{n}": n for n in range(9999)}, "holds 9999 names"),
        ("file_ending", "x" * 2**20, "file_ending is"),
        ("numTraining", ["x"] * 2**16, "numTraining is"),
        ("labels", {"a": "x" * 2**20}, "has the number"),
        ("x", json.loads("[" * 500 + "]" * 500), "nested too deeply"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_a_description_of_very_many_names_is_refused_in_few_words(
    key: str, value: object, match: str, tmp_path: Path
) -> None:
    table = {"channel_names": {"0": "T1"}, "labels": {"a": 0}, "file_ending": ".png", key: value}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=match) as found:
        describe(tmp_path)
    assert len(str(found.value)) < LONGEST_ERROR


def test_regions_of_very_many_numbers_are_refused_before_they_are_compared(tmp_path: Path) -> None:
    labels = {f"r{n}": list(range(256 * n, 256 * n + 256)) for n in range(64)}
    table = {"channel_names": {"0": "T1"}, "labels": labels, "regions_class_order": [1]}
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "file_ending": ".png"}))
    refused_soon(lambda: describe(tmp_path), "more than 64 regions, or 256 numbers")


def test_files_that_are_listed_and_not_there_are_no_hundred_thousand_faults(tmp_path: Path) -> None:
    files = {f"c{n}": {"images": [f"{n}.png"], "label": f"l/{n}.png"} for n in range(5000)}
    table = {"channel_names": {"0": "T1"}, "labels": {"a": 0}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "dataset": files}))
    faults = check_folder(tmp_path).faults
    assert len(faults) == 1001 and "may list others" in faults[-1].reason


def test_a_suite_of_very_many_sets_and_models_is_refused_before_any_pair_is_checked() -> None:
    sets = [f"[[sets]]\nname='s{n}'\nfolder='d'\nsites=['a']\nlabel='x'\n" for n in range(400)]
    models = [f"[[models]]\nname='m{n}'\nrecipe='demo'\n" for n in range(400)]
    text = "name = 's'\n" + "".join(sets + models)
    refused_soon(lambda: Suite.from_toml(text), "at most 16 items(.|\n)*at most 32 items")


def test_one_file_of_a_high_number_is_no_ten_thousand_faults(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "ann_9999.png").write_bytes(b"")
    assert len(check_folder(tmp_path).faults) < 100


def test_a_state_of_very_many_tensors_or_a_vast_header_is_refused_before_they_are_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "many.safetensors"
    empty = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    many = b"{" + b"".join(empty % number for number in range(2**16 + 1))[:-1] + b"}"
    for header in (many, b"{" + b" " * 2**25 + b"}"):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        refused_soon(lambda: checkpoint.read(path), "is not a whole checkpoint")
