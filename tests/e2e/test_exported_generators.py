"""Generators that paint where asyndgan is not installed: as ONNX, and as a MONAI bundle."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from onnx import shape_inference
from PIL import Image
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import MissingPackageError, RunError
from asyndgan.export.arrays import from_arrays
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.painting import portable
from asyndgan.painting.bundle import write_bundle
from asyndgan.painting.painter import Painter, looks_of_holders
from asyndgan.painting.portable import Alone, Apart, traced, write_onnx
from asyndgan.painting.synthesise import chosen_masks, released_masks
from asyndgan.runs.train import train
from commands import asyndgan

STYLED = ("generator.style=2", "generator.latent=1", "generator.soften=1", "training.steps=2")
PARTLY = {"without": {"south": ["T1"]}}
WITHOUT = """
import importlib.abc, json, os, runpy, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name.split(".")[0] == "asyndgan":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
for bundle, *words in json.loads(sys.argv[1]):
    os.chdir(bundle)
    sys.argv = ["monai.bundle", *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def pictures(phantoms, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return train(tiny("image.size=32", *STYLED), phantoms, folder / "run", **PARTLY)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder, random, sites = tmp_path_factory.mktemp("whole"), np.random.default_rng(0), {}
    for name in ("north", "south"):
        masks = np.zeros((4, 20, 24, 18), np.uint8)
        for mask in masks:
            x, y, z = random.integers(0, 8, 3)
            mask[x : x + 11, y : y + 12, z : z + 9] = 1
            mask[x : x + 4, y : y + 5, z : z + 9] = 2
        images = 60 * masks[:, None] + random.normal(30, 5, (4, 3, 20, 24, 18)).clip(0)
        people = [f"{name}{number}" for number in range(4)]
        sites[name] = from_arrays(
            folder / name, images, masks, people, modalities=("T1", "T2", "FLAIR"),
            labels={"background": 0, "organ": 1, "lesion": 2}, spacing=(2, 2, 3),
        )  # fmt: skip
    recipe = tiny("image.size=16x32x32", "image.axis=coronal", *STYLED, "generator.deform=1")
    return train(recipe, sites, folder / "run"), sites["north"]


@pytest.fixture(scope="module")
def painted(pictures, whole, tmp_path_factory):
    """What MONAI paints from both bundles, in a process that has no asyndgan."""
    folder, calls = tmp_path_factory.mktemp("painted"), []
    asyndgan("export", pictures.path, folder / "flat", "--to", "monai-bundle")
    asyndgan("export", whole[0].path, folder / "deep", "--to", "monai-bundle")
    for bundle, masks, look in (
        ("flat", pictures.masks / "labelsTr", "south"), ("deep", whole[1] / "labelsTr", "north")
    ):  # fmt: skip
        told = {
            "config_file": "configs/inference.json", "bundle_root": ".", "device": "cpu",
            "masks_dir": masks, "output_dir": folder / f"{bundle}-out", "look": look,
        }  # fmt: skip
        options = [word for key, value in told.items() for word in (f"--{key}", str(value))]
        calls.append([str(folder / bundle), "run", *options])
    command = [sys.executable, "-c", WITHOUT, json.dumps(calls)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return folder


def expected(run, mask, look):
    """What asyndgan paints from a mask with the noise of MONAI's seed."""
    looks, (random, drawn) = [run.facts().look_of(look)], (torch.Generator() for _ in range(2))
    others = looks_of_holders(run.facts(), looks, drawn.manual_seed(0))
    return Painter(run).paint(mask[None], looks, others, random.manual_seed(0))[0]


def test_a_bundle_of_pictures_paints_every_modality_in_the_look_of_a_site_that_lacks_one(
    pictures, painted
):
    masks, out = pictures.masks / "labelsTr", painted / "flat-out"
    names = sorted(path.stem for path in masks.glob("*.png"))
    images = expected(pictures, dict(released_masks(pictures))[names[0]], "south")
    for channel, image in enumerate(images):
        shown = np.asarray(Image.open(out / f"imagesTr/{names[0]}_{channel:04}.png"))
        assert np.abs(shown - (image.numpy() + 1) * 127.5).max() <= 0.51
    for name in names:
        drawn, copied = (Image.open(at / f"{name}.png") for at in (masks, out / "labelsTr"))
        assert np.array_equal(np.asarray(drawn), np.asarray(copied))
        assert len([*(out / "imagesTr").glob(f"{name}_*.png")]) == 3


def test_a_bundle_of_volumes_paints_them_where_their_masks_lie(whole, painted):
    (run, north), out = whole, painted / "deep-out"
    files = sorted((north / "labelsTr").iterdir())
    mask = chosen_masks(run, north)[0][0][1]
    name = files[0].name.removesuffix(".nii.gz")
    stored = [nib.load(out / f"imagesTr/{name}_{place:04}.nii.gz") for place in range(3)]
    copied, given = nib.load(out / f"labelsTr/{name}.nii.gz"), nib.load(files[0])
    assert np.allclose(stored[0].affine, copied.affine)
    held = np.flip(copied.get_fdata().transpose(1, 2, 0), (1, 2))
    assert (held == mask.numpy()).mean() > 0.97
    images = expected(run, torch.from_numpy(held.astype(np.int64)), "north")
    for image, file in zip(images, stored, strict=True):
        shown = np.flip(file.get_fdata().transpose(1, 2, 0), (1, 2))
        assert np.abs(shown - (image.numpy() + 1) * 127.5).max() < 0.02
    where = [
        nib.affines.apply_affine(each.affine, np.argwhere(each.get_fdata() > 0).mean(0))
        for each in (copied, given)
    ]
    assert np.allclose(*where, atol=1.0)


def test_what_a_bundle_painted_is_a_data_set_that_says_it_is_synthetic(painted):
    for out in (painted / "flat-out", painted / "deep-out"):
        info = describe(out)
        assert info.synthetic and info.modalities == ("T1", "T2", "FLAIR")
        assert (
            len(DataSet(out).files) == json.loads((out / "dataset.json").read_text())["numTraining"]
        )


def ran_by_monai(bundle, masks, out, **more):
    from monai.bundle import run
    from monai.utils import set_determinism

    try:
        run(
            config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle),
            meta_file=str(bundle / "configs/metadata.json"), masks_dir=str(masks),
            output_dir=str(out), device="cpu", **more,
        )  # fmt: skip
    finally:
        set_determinism(None)
        torch.set_grad_enabled(True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"masks": "nowhere"}, r"No \*\.png in nowhere: put label maps there"),
        ({"look": "west"}, "There is no look west. There are: north, south"),
        ({"out": "bad"}, "bad holds something: name a new folder"),
        ({"masks": "bad"}, r"a\.png holds labels 0, 255; this generator knows 0, 1, 2"),
    ],
    ids=["no mask", "no such look", "a full folder", "0 and 255"],
)
def test_a_bundle_says_what_is_wrong_with_masks_and_looks(
    changes, said, painted, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(tmp_path / "bad" / "a.png")
    told = {"masks": pictures.masks / "labelsTr", "out": "out", **changes}
    with pytest.raises(SystemExit, match=said):
        ran_by_monai(painted / "flat", **told)
    assert not [*tmp_path.glob("out/*/*")]


def test_a_bundle_says_of_itself_what_monai_asks_for(painted):
    from monai.bundle import verify_net_in_out

    for bundle in (painted / "flat", painted / "deep"):
        about = json.loads((bundle / "configs/metadata.json").read_text())
        # The keys that MONAI's specification calls mandatory; its schema is on a server.
        assert about.keys() >= {
            "version", "monai_version", "pytorch_version", "numpy_version", "task", "description",
            "required_packages_version", "authors", "copyright", "network_data_format",
        }  # fmt: skip
        for kind in ("inputs", "outputs"):
            (tensor,) = about["network_data_format"][kind].values()
            assert tensor.keys() >= {
                "type", "format", "modality", "num_channels", "spatial_shape", "dtype",
                "value_range", "is_patch_data", "channel_def",
            }  # fmt: skip
        verify_net_in_out(
            net_id="network_def", meta_file=str(bundle / "configs/metadata.json"),
            config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle),
            device="cpu",
        )  # fmt: skip
        with zipfile.ZipFile(bundle / "models/model.ts") as network:
            parts = [network.read(part) for part in network.namelist()]
        assert not any(b"/asyndgan/" in part or b"site-packages" in part for part in parts)
        card = (bundle / "docs/README.md").read_text()
        assert "north" in card and "Licence: not stated" in card
        assert "not stated" in (bundle / "LICENSE").read_text()


def test_no_text_of_another_party_is_run_by_monai(pictures, monkeypatch, tmp_path):
    facts = replace(pictures.facts(), modalities=["$exit()", "T2'\"}", "%####b"])
    facts.labels["1"] = "@seed #1"
    for site in facts.sites.values():
        site["modalities"] = facts.modalities
    monkeypatch.setattr(pictures, "facts", lambda: facts)
    write_bundle(pictures, tmp_path / "bundle")
    text = (tmp_path / "bundle/configs/metadata.json").read_text()
    assert "$exit()" in text and "_seed _1" in text
    assert '"$' not in text and not {*"@#%"} & {*text}
    mask = np.zeros((32, 32), np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    ran_by_monai(tmp_path / "bundle", tmp_path / "masks", tmp_path / "out")
    about = json.loads((tmp_path / "out/dataset.json").read_text())
    assert [*about["channel_names"].values()] == facts.modalities
    assert about["labels"]["@seed #1"] == 1 and len([*tmp_path.glob("out/imagesTr/*")]) == 3


@pytest.mark.parametrize("name", ["pictures", "whole"])
def test_onnx_paints_the_same_within_1e_4_for_any_number_of_images(name, request, tmp_path):
    from onnx.reference import ReferenceEvaluator

    found = request.getfixturevalue(name)
    run = found[0] if name == "whole" else found
    asyndgan("export", run.path, tmp_path / "out", "--to", "onnx")
    evaluator = ReferenceEvaluator(str(tmp_path / "out/generator.onnx"))
    about, network = json.loads((tmp_path / "out/generator.json").read_text()), Apart(run).eval()
    assert [*about["inputs"]] == evaluator.input_names == [*network.names]
    assert about["modalities"] == ["T1", "T2", "FLAIR"] and [*about["looks"]] == ["north", "south"]
    for count in (1, 3) if name == "pictures" else (2,):
        given = [torch.randn(count, *size[1:]) for size in about["inputs"].values()]
        feeds = {key: value.numpy() for key, value in zip(network.names, given, strict=True)}
        (images,) = evaluator.run(None, feeds)
        assert np.abs(images - network(*given).numpy()).max() < 1e-4


def test_a_traced_network_computes_where_its_weights_lie(pictures, whole):
    for run in (pictures, whole[0]):
        alone = Alone(run)
        network = traced(alone).to("meta")  # refuses tensors of other devices, as a GPU does
        (masks,) = alone.examples()
        assert network(masks.to("meta")).shape[:2] == (2, 3)


@pytest.mark.parametrize("kind", ["resnet", "topdown"])
def test_a_generator_without_noise_or_looks_is_exported(phantoms, tiny, tmp_path, kind):
    plain = ("image.size=32", "training.steps=2", "generator.noise=0", f"generator.kind={kind}")
    run = train(tiny(*plain), phantoms, tmp_path / "run")
    masks = torch.stack([mask for _, mask in released_masks(run)])
    alone = Alone(run)
    assert alone.apart.names == ("mask",) and not alone.looks
    images = traced(alone)(masks[:, None].float())
    assert torch.allclose(images, Painter(run)(masks), atol=1e-4)
    write_onnx(run, tmp_path / "onnx")
    graph = shape_inference.infer_shapes(onnx.load(tmp_path / "onnx/generator.onnx")).graph
    empty = {
        each.name
        for each in graph.value_info
        if any(size.HasField("dim_value") and not size.dim_value
               for size in each.type.tensor_type.shape.dim)
    }  # fmt: skip
    reshaped = {node.input[0] for node in graph.node if node.op_type == "Reshape"}
    assert reshaped and not reshaped & empty  # which ONNX Runtime refuses


def test_a_network_that_counts_its_images_is_refused(pictures, monkeypatch):
    def counting(self, mask, *drawn):
        return mask[:, :1] * len(mask)

    monkeypatch.setattr(Apart, "forward", counting)
    with pytest.raises(RunError, match="must not depend on the number of images"):
        traced(Apart(pictures))


def test_what_paints_without_masks_and_a_missing_package_are_refused(
    pictures, tiny, monkeypatch, tmp_path
):
    monkeypatch.setattr(portable, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="onnx"):
        write_onnx(pictures, tmp_path / "out")
    recipe = tiny("condition.kind=none", "generator.kind=dcgan", "masks.release=false")
    monkeypatch.setattr(pictures, "recipe", lambda: recipe)
    with pytest.raises(RunError, match="paints without masks"):
        write_bundle(pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_form_is_told_which_there_are(pictures, tmp_path):
    done = CliRunner().invoke(app, ["export", str(pictures.path), str(tmp_path / "out")])
    assert isinstance(done.exception, RunError) and "--to onnx" in str(done.exception)
