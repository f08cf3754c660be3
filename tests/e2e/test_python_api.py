"""The public Python API as a notebook uses it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import asyndgan
from asyndgan.errors import AsyndganError, DataError, PolicyError, RecipeError, RunError
from asyndgan.export.lists import SPLITS_FILE
from asyndgan.export.writing import write_dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.nnunet import describe, read_mask
from asyndgan.intake.readers import AXIAL, Geometry, lossless, reader_of
from asyndgan.intake.units import units_of
from asyndgan.models import Sizes
from asyndgan.recipe import GeneratorSection
from asyndgan.store import RawCase
from reading import read_cases
from small import copied, declare

NOTEBOOK = Path(__file__).parents[2] / "examples" / "phantoms.ipynb"


@pytest.fixture(scope="module")
def sites(phantoms):
    return {"north": str(phantoms["north"]), "south": phantoms["south"]}


@pytest.fixture(scope="module")
def recipe(tiny):
    return tiny("image.size=32", "training.steps=2", "generator.style=4")


@pytest.fixture(scope="module")
def run(recipe, sites, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("api") / "run")
    return asyndgan.train(recipe, sites, out, overrides={"generator.noise": 2})


@pytest.fixture(scope="module")
def unfinished(recipe, sites, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "unfinished"
    with pytest.raises(StoppedError):
        asyndgan.train(recipe, sites, out, watch=stop)
    return out


@pytest.fixture(scope="module")
def mask(phantoms):
    return read_mask(min((phantoms["north"] / "labelsTr").iterdir())).values


class StoppedError(Exception):
    pass


def stop(*told: object) -> None:
    disturb()
    raise StoppedError


def disturb(*told: object) -> None:
    """What a library, or a notebook's own function, may do meanwhile."""
    torch.rand(1)
    torch.set_num_threads(1)


def test_importing_the_package_imports_no_torch_and_names_what_it_exports():
    code = (
        "import sys, asyndgan; names = dir(asyndgan); asyndgan.Recipe; "
        "assert {*asyndgan.__all__, '__version__'} == {*names}, names; "
        "assert not {'torch', 'numpy', 'monai'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    exec("from asyndgan import *", names := {})
    assert all(names[name] is getattr(asyndgan, name) for name in asyndgan.__all__)
    with pytest.raises(AttributeError, match="'asyndgan' has no attribute 'trian'"):
        asyndgan.trian  # noqa: B018


def test_a_mask_is_painted_whatever_whole_numbers_it_is_given_in(run, mask):
    wanted = run.paint(mask.astype(np.int64), look="north")
    assert (wanted.shape, wanted.dtype) == ((3, 32, 32), np.float32)
    assert abs(wanted).max() <= 1
    whole = torch.from_numpy(mask.astype(np.int64))
    for given in (
        *(mask.astype(kind) for kind in ("u1", "i1", ">u2", "u8", "i4")), mask.tolist(),
        mask[::-1].copy()[::-1], *(whole.to(kind) for kind in (torch.uint8, torch.int16)),
    ):  # fmt: skip
        assert np.array_equal(run.paint(given, look="north"), wanted)


def test_a_stack_of_one_mask_gives_images_that_differ_and_are_the_same_again(run, mask):
    stack = np.stack([mask, mask])
    images = run.paint(stack)
    assert images.shape == (2, 3, 32, 32)
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(images, run.paint(torch.from_numpy(stack)))
    assert not np.array_equal(images, run.paint(stack, seed=1))


def test_a_look_is_one_of_the_sites_and_changes_the_image(run, mask):
    north, south = (run.paint(mask, look=look) for look in run.looks)
    assert not np.allclose(north, south)
    with pytest.raises(RunError, match="east is no site that this run learned from; those are nor"):
        run.paint(mask, look="east")


NONE = r"is no array \({}\)\. .* A file has to be read first"
SIZE = r"has shape .*whole numbers in arrays of \(32, 32\), or \(n, 32, 32\) for n masks"
WHOLE = r"holds {}\. This run paints from whole numbers"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((16, 16), int), SIZE), (np.zeros((32, 32, 3), int), SIZE),
        (np.zeros((2, 2, 32, 32), int), SIZE), ("mask.png", NONE.format("str")),
        (7, NONE.format("int")),
        (np.arange(4)[:, None, None] == np.zeros((32, 32)), r"one-hot\). .* mask.argmax\(0\)"),
        (np.full((32, 32), 9), "hold label 9; this generator knows 0, 1, 2, 3"),
        (np.full((32, 32), 2**64 - 1, np.uint64), "hold label -1"),
        (torch.full((32, 32), 255, dtype=torch.uint8), "hold label 255"),
        (np.full((32, 32), 0.5), "not whole, so no labels"),
        (torch.zeros((32, 32), dtype=torch.complex64), "not whole, so no labels"),
        (np.full((32, 32), None), WHOLE.format("object")),
        (torch.full((32, 32), torch.nan, dtype=torch.bfloat16), "not whole, so no labels"),
    ],
)  # fmt: skip
def test_a_mask_of_another_size_or_type_or_with_unknown_labels_is_refused(wrong, said, run):
    for use in (run.paint, run.generator, run.dataset):
        with pytest.raises(RunError, match=said):
            use(wrong)


def test_masks_are_taken_as_monai_loads_them(run, mask):
    loaded = torch.as_tensor(mask, dtype=torch.float32)[None, None]
    assert np.array_equal(run.paint(loaded, seed=3), run.paint(mask, seed=3)[None])
    for use in (run.generator, lambda masks: run.dataset(masks)[0]["image"][None]):
        assert use(loaded).shape == (1, len(run.modalities), *run.size)


def test_what_paints_without_masks_is_not_given_one(recipe, sites, mask, tmp_path):
    without = {"condition.kind": "none", "masks.release": False, "generator.noise": 4}
    run = asyndgan.train(
        recipe,
        sites,
        tmp_path / "run",
        overrides=without | {"generator.style": 0},
    )
    with pytest.raises(RunError, match="paints without masks"):
        run.paint(mask)
    assert run.looks == ()
    assert asyndgan.generate(run, tmp_path / "set", draws=3) == 3


def test_an_unfinished_run_can_be_looked_at_and_says_that_it_has_to_be_finished(
    unfinished, sites, mask, tmp_path
):
    run = asyndgan.Run(unfinished)
    assert "failed at step" in repr(run)
    test = sites["north"]
    for use in (
        lambda: run.paint(mask),
        lambda: asyndgan.generate(unfinished, tmp_path / "set", masks=test),
        lambda: asyndgan.evaluate(run, {"south": sites["south"]}, tmp_path / "table", test=test),
        lambda: asyndgan.audit(run, {"south": sites["south"]}, tmp_path / "audit", holdout=test),
    ):
        with pytest.raises(
            RunError, match=r"finish it with asyndgan\.train\(\.\.\., resume=True\)"
        ):
            use()
    assert not [*tmp_path.glob("*/*")]


def test_a_sites_name_that_could_be_no_folder_is_refused(recipe, sites, tmp_path):
    with pytest.raises(RecipeError, match="a name has letters, digits, '-' and '_' only"):
        asyndgan.train(recipe, {"../north": sites["north"]}, tmp_path / "run")
    with pytest.raises(RecipeError, match="capitals do not tell two apart"):
        asyndgan.train(recipe, {"north": sites["north"], "North": sites["south"]}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_set_is_generated_and_judged_as_an_evaluation_without_one_would_paint_it(
    run, sites, tmp_path
):
    out = str(tmp_path / "set")
    with pytest.raises(RunError, match="there is no label 'tumour' to fade"):
        asyndgan.generate(run, out, masks=sites["south"], fade=["tumour"])
    count = asyndgan.generate(str(run.path), out, masks=sites["south"], draws=2, fade=["lesion"])
    assert len([*(tmp_path / "set" / "labelsTr").iterdir()]) == count
    assert describe(tmp_path / "set").extra["synthetic"] is True
    told: list[tuple[object, ...]] = []
    how = {"test": sites["north"], "steps": 1, "labels": ["head"]}
    table = asyndgan.evaluate(
        run, {"south": sites["south"]}, tmp_path / "table", synthetic=out, **how,
        watch=lambda *words: told.append(words),
    )  # fmt: skip
    assert table.row("synthetic", "head").cases == count
    assert told[-1][1:] == (3, 3)
    assert repr(table) == f"Evaluation on real test patients:\n{table.headline}"
    count = asyndgan.generate(run, tmp_path / "own")
    asyndgan.evaluate(run, {"south": sites["south"]}, tmp_path / "judged", **how)
    ours, judged = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "own", tmp_path / "judged" / "synthetic")
    )
    assert ours == judged and len({name.name[:12] for name in ours}) * 3 == count
    for fold in json.loads((tmp_path / "own" / SPLITS_FILE).read_text()):
        train, val = ({name.partition("_d")[0] for name in fold[part]} for part in fold)
        assert train and val and not train & val


STORED: dict[str, tuple[str, str, tuple[float, float], Geometry, dict[str, Any]]] = {
    "CT of thick slices, as scanners lay it": (
        ".nii.gz", "int16", (-1000, 1000), Geometry(2, 5.0, ("L", "P", "S")), {},
    ),
    "sagittal MRI at the run's spacing": (
        ".nii", "float32", (-1000, 1000), Geometry(0, 4.0, ("P", "S", "R")),
        {"image.axis": "sagittal", "image.spacing": [1.5, 2.0], "training.flip": False},
    ),
    "pictures of 16 bits by percentiles": (
        ".png", "uint16", (0, 4095), AXIAL,
        {f"image.intensity.default.{key}": value
         for key, value in {"kind": "percentiles", "low": 0.5, "high": 99.5}.items()},
    ),
    "JPEG, whose synthetic images are PNG": (".jpg", "uint8", (10, 200), AXIAL, {}),
}  # fmt: skip
"""Ending, number type, ends of the intensities and geometry of a site's files, and overrides."""


@pytest.mark.parametrize("stored", STORED)
def test_a_set_is_stored_as_a_site_stores_its_own(stored, recipe, phantoms, tmp_path):
    ending, kind, (low, high), geometry, overrides = STORED[stored]
    for name, folder in phantoms.items():
        write_dataset(
            tmp_path / name,
            (stored_between(case, low, high, kind) for case in read_cases(folder)),
            modalities=describe(folder).modalities, labels=describe(folder).labels,
            file_ending=lossless(ending), name=name, geometry=lambda _: geometry,
            extra={"units": dict.fromkeys(describe(folder).modalities, "HU")},
        )  # fmt: skip
        if lossless(ending) != ending:
            in_jpeg(tmp_path / name)
    sites = {name: tmp_path / name for name in phantoms}
    overrides = {
        "image.intensity.default.low": low, "image.intensity.default.high": high, **overrides
    }  # fmt: skip
    run = asyndgan.train(recipe, sites, tmp_path / "run", overrides=overrides)
    asyndgan.generate(run, tmp_path / "set", like=tmp_path / "south")
    asyndgan.generate(run, tmp_path / "pictures")
    found, pictures, own = (DataSet(tmp_path / name) for name in ("set", "pictures", "south"))
    ours, theirs = (data.files[0].images[0] for data in (found, own))
    assert ours.name.endswith(lossless(ending))
    (one,), (other,) = (reader_of(path).image(path, most=1) for path in (ours, theirs))
    if reader_of(ours).volumes:
        whole = kind == "int16" and high - low > 255
        assert one.values.dtype == (np.int16 if whole else np.float32)
        codes = [nib.orientations.ornt2axcodes(each.turn) for each in (one, other)]
        assert codes == [geometry.codes, geometry.codes]
        rows, columns = overrides.get("image.spacing", (0.75, 0.75))
        assert one.spacing == pytest.approx(
            np.insert([columns, rows], geometry.axis, geometry.thickness)
        )
        assert one.values.shape[geometry.axis] == 1
    else:
        assert one.values.dtype == other.values.dtype == np.dtype(kind)
        assert one.spacing == pytest.approx(other.spacing)
    paths = found.files[0].images.values()
    values = np.stack([reader_of(path).image(path, most=1)[0].values for path in paths])
    percentiles = overrides["image.intensity.default.high"] == 99.5
    ends = (0, 65535) if percentiles else (low, high)
    assert ends[0] <= values.min() < values.max() <= ends[1]
    assert values.max() - values.min() > 0.2 * (ends[1] - ends[0])
    kept = {name: "HU" for name in own.info.modalities if not percentiles}
    assert units_of(found.info.extra) == kept and not units_of(pictures.info.extra)
    image = run.recipe.image
    both = (data.cases(image, synthetic=True) for data in (found, pictures))
    for one, other in zip(*both, strict=True):
        assert torch.equal(one.mask, other.mask)
        assert torch.allclose(one.image, other.image, atol=2.2 / min(255, ends[1] - ends[0]))
    assert not check_folder(found.folder, image=image).faults


def test_a_set_is_not_stored_like_a_set_of_other_modalities(run, phantoms, tmp_path):
    names = {str(number): f"CT{number}" for number in range(3)}
    other = copied(phantoms["south"], tmp_path / "other", channel_names=names)
    with pytest.raises(DataError, match=r"the run paints .*Name with like"):
        asyndgan.generate(run, tmp_path / "set", like=other)
    assert not (tmp_path / "set").exists()


def in_jpeg(folder: Path) -> None:
    """Stores the images of a set of PNG in JPEG."""
    for path in list((folder / "imagesTr").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    declare(folder, file_ending=".jpg")


def stored_between(case: RawCase, low: float, high: float, kind: str) -> RawCase:
    scale = (high - low) / 255
    channels = {name: (one * scale + low).astype(kind) for name, one in case.channels.items()}
    return replace(case, channels=channels, spacing=(0.75, 0.75))


def test_a_set_whose_provenance_gives_no_range_is_refused(run, tmp_path):
    asyndgan.generate(run, tmp_path / "set", draws=1)
    file = tmp_path / "set" / "dataset.json"
    about = json.loads(file.read_text())
    for stored in ([1], {"T1": [2, 1]}, {"T1": "ab"}, {"T1": [0, float("inf")]}):
        about["provenance"]["stored"] = stored
        file.write_text(json.dumps(about))
        with pytest.raises(DataError, match=r"dataset\.json: says in its provenance no lowest"):
            DataSet(tmp_path / "set").cases(run.recipe.image, synthetic=True)


@pytest.fixture
def disturbed():
    """Whether threads or random state of torch are other ones than at the beginning."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    yield lambda: torch.get_num_threads() != 2 or not torch.get_rng_state().equal(state)
    torch.set_num_threads(before)


def test_torchs_threads_and_random_state_are_left_as_they_were(
    disturbed, run, recipe, sites, mask, tmp_path
):
    run.paint(mask)
    asyndgan.generate(run, tmp_path / "set", draws=1)
    asyndgan.train(recipe, sites, tmp_path / "run", watch=disturb)
    assert not disturbed()
    with pytest.raises(StoppedError):
        asyndgan.train(recipe, sites, tmp_path / "stopped", watch=stop)
    with pytest.raises(AsyndganError, match="device 'abacus' cannot be used"):
        asyndgan.train(recipe, sites, tmp_path / "other", device="abacus", threads=1)
    assert not disturbed()


def test_every_cell_of_the_notebook_runs_and_a_head_is_brighter_than_air(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # From patients' masks and images: what learned ones teach takes longer than a test may.
    told: dict[str, Any] = {"quicker": {
        "masks.source": "own", "masks.release": True, "loss.paired_l1": 100, "training.steps": 12,
        "training.batch": 2, "discriminator.kind": "patch", "discriminator.width": 4,
        "loss.segmentation": 0, "generator.blocks": 1,
    }}  # fmt: skip
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            exec(code.replace("overrides=quick)", "overrides=quick | quicker)"), told)
    picture, shown = np.asarray(told["picture"]), told["mask"]
    assert picture.shape == (64, 128)
    t1 = picture[:32, 32:64]
    assert t1[shown > 0].mean() > t1[shown == 0].mean() + 50
    assert told["batch"]["image"].shape == (8, 3, 32, 32)


def test_the_generator_is_a_torch_module_that_paints_a_batch_of_masks(run, mask):
    masks = torch.from_numpy(np.stack([mask, mask]).astype(np.int64))
    assert sum(weights.numel() for weights in run.generator.parameters()) > 0
    first, second = (
        run.generator(masks, random=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert first.shape == (2, 3, 32, 32)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    by_default = run.generator(masks, "north")
    torch.manual_seed(0)
    assert torch.equal(by_default, run.generator(masks, "north"))
    with pytest.raises(RunError, match="east is no site that this run learned from"):
        run.generator(masks, "east")


def test_a_painted_set_goes_through_a_loader_and_is_the_same_again(run, mask):
    data = run.dataset(np.stack([mask, 0 * mask]), draws=2, seed=3)
    assert len(data) == 4
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4, num_workers=1)))
    assert (batch["image"].shape, batch["label"].shape) == ((4, 3, 32, 32), (4, 1, 32, 32))
    assert torch.equal(batch["image"][2], data[2]["image"])
    assert torch.equal(batch["label"][2], batch["label"][0])
    assert not torch.equal(batch["image"][2], batch["image"][0])
    assert torch.equal(data[torch.tensor(2)]["image"], data[2]["image"])
    with pytest.raises(IndexError):
        data[4]


def test_a_painted_set_is_of_the_masks_that_sites_released_and_is_transformed(run):
    shapes = run.dataset(transform=lambda item: item["label"].shape)
    assert len(shapes) == len([*(run.path / "masks" / "labelsTr").iterdir()])
    assert shapes[0] == (1, 32, 32)


def test_a_policy_has_the_last_word_in_python_too(recipe, sites, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("allows.most_answers = 1")
    with pytest.raises(PolicyError, match="north"):
        asyndgan.train(recipe, sites, tmp_path / "run", policies={"north": policy})


class Flat(torch.nn.Module):
    """A generator of one convolution."""

    def __init__(self, sizes: Sizes, section: GeneratorSection) -> None:
        super().__init__()
        noise = section.noise + section.code
        self.layer = torch.nn.Conv2d(sizes.labels + noise, sizes.modalities, 1)

    def forward(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(torch.cat([condition, noise], 1)))


def test_a_network_of_a_notebook_is_trained_by_its_registered_name(recipe, sites, mask, tmp_path):
    asyndgan.register("generators", "flat", Flat)
    changed = {"generator.kind": "flat"}
    run = asyndgan.train(recipe, sites, tmp_path / "run", overrides=changed)
    assert isinstance(run.generator.network, Flat)
    assert run.paint(mask).shape == (3, 32, 32)
    with pytest.raises(RecipeError, match="has 'topdown' already"):
        asyndgan.register("generators", "topdown", Flat)
    asyndgan.register(
        "generators", "wide", lambda sizes, own: Flat(sizes._replace(modalities=7), own)
    )
    with pytest.raises(
        RecipeError, match=r"'wide' paints images of shape \(7, 32, 32\), wanted \(3, "
    ):
        asyndgan.train(recipe, sites, tmp_path / "other", overrides={"generator.kind": "wide"})


def test_a_plan_is_a_recipe_for_the_sites_data(sites):
    planned = asyndgan.plan(sites, overrides={"training.steps": 7})
    assert (planned.name, planned.training.steps) == ("planned", 7)


@pytest.mark.parametrize("wrong", [{"sites": {}}, {"hours": 0}, {"hours": float("nan")}])
def test_a_plan_without_sites_or_time_is_refused(wrong, sites):
    with pytest.raises(RunError, match=r"no site to plan for|hours = "):
        asyndgan.plan(**{"sites": sites} | wrong)


@pytest.mark.parametrize(
    ("sides", "spacing", "kind"),
    [((20, 24), (2.0, 3.0), "float32"), ((10, 12, 8), (1.0, 2.0, 5.0), "int16")],
)
def test_arrays_become_a_data_set_of_the_same_values_patients_and_spacing(
    tmp_path: Path, sides: tuple[int, ...], spacing: tuple[float, ...], kind: str
) -> None:
    random = torch.Generator().manual_seed(0)
    images = [(100 * torch.rand(2, *sides, generator=random)).numpy().astype(kind) for _ in "abcd"]
    masks = [torch.from_numpy(image[:1] > 50).long() for image in images]
    folder = asyndgan.from_arrays(
        tmp_path / "north", images, [*masks[:3], None], ["p1", "p1", "p2", "p3"],
        modalities=["T1", "T2"], labels={"background": 0, "bright": 1}, spacing=spacing,
    )  # fmt: skip
    data = DataSet(folder)
    assert [*data.patients.values()] == ["p1", "p1", "p2", "p3"]
    for files, image, mask in zip(data.files, images, masks, strict=True):
        source, channels, drawn = data.arrays(files)
        assert source and source.spacing == pytest.approx(spacing)
        assert all(
            np.array_equal(channels[name], image[at]) for at, name in enumerate(("T1", "T2"))
        )
        assert drawn is None if files.name == "p3_s001" else np.array_equal(drawn, mask[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patients": ["p1"]}, "2 images, 2 masks and 1 patients"),
        ({"patients": ["p_s1", "p_s2"]}, "read as another"),
        ({"patients": ["a b", "c"]}, "cannot be a file name"),
        ({"modalities": ["T1", "T2"]}, r"Give 2 channels \(T1, T2\)"),
        ({"spacing": (1, 0)}, "above 0"),
        ({"spacing": (float("nan"), 1)}, "for each side the millimetres"),
        ({"images": [np.zeros((1, 8, 8), complex)] * 2}, "of real numbers"),
        ({"images": [np.zeros((1, 8, 0))] * 2}, "2 sides"),
        ({"images": [np.zeros((3, 8, 8))] * 2, "modalities": ["R", "G", "B"]}, "in 8 bits"),
        ({"masks": [np.zeros((4, 4), int)] * 2}, r"mask 0 has the shape \(4, 4\)"),
        ({"masks": [np.zeros((8, 8))] * 2}, "Give whole numbers"),
        ({"masks": [np.full((8, 8), 7)] * 2}, "has the labels 7"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    given = {
        "images": [np.zeros((1, 8, 8))] * 2, "masks": [np.zeros((8, 8), int)] * 2,
        "patients": ["p1", "p2"], "modalities": ["T1"], "labels": {"background": 0, "bright": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match=said):
        asyndgan.from_arrays(tmp_path / "north", **given | change)  # type: ignore[arg-type]  # of tests
    assert not (tmp_path / "north").exists()
