"""A finished run's generator as a MONAI bundle, which paints where asyndgan is not installed.

As https://docs.monai.io/en/stable/mb_specification.html says. The network is TorchScript.
"""

import io
import json
import re
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.export.writing import copy_file, in_colour, written_whole
from asyndgan.painting.card import generator_card
from asyndgan.painting.portable import Alone, traced
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFolder
from asyndgan.runs.shipped import licence_of
from asyndgan.store.fitting import SYNTHETIC_INTENSITY

SCHEMA: Final = "https://project-monai.github.io/schema/meta_schema_20240725.json"

VIEWED: Final = {"axial": "SPL", "sagittal": "RIP", "coronal": "AIL"}
"""Where the axes of a volume point that is held as its slices are viewed (`readers.viewed`)."""


def write_bundle(run: RunFolder, folder: Path) -> None:
    """Writes a generator as a MONAI bundle into a new folder.

    Raises:
        RunError: the generator cannot be exported.
        DataError: `folder` cannot be written.
    """
    network = Alone(run)
    with written_whole(folder) as half:
        for inner in ("configs", "models", "docs"):
            (half / inner).mkdir(parents=True)
        _save(traced(network), half / "models" / "model.ts")
        for name, content in (
            ("metadata", _metadata(run, folder.resolve().name)),
            ("inference", _inference(run, network.looks)),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (half / "configs" / f"{name}.json").write_text(text + "\n", "utf-8")
        (half / "docs" / "README.md").write_text(generator_card(run, "bundle"), "utf-8")
        own = run.path / "MODEL_CARD.md"  # of a generator that comes with the package
        if own.exists():
            copy_file(own, half / "docs" / own.name)
        (half / "LICENSE").write_text(f"{_licence(run)}\n", "utf-8")


def _licence(run: RunFolder) -> str:
    return f"Licence: {licence_of(run.path)}"


def _save(network: torch.jit.ScriptModule, file: Path) -> None:
    """Writes TorchScript without what it keeps for debugging: paths of this machine."""
    buffer = io.BytesIO()
    torch.jit.save(network, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(file, "w") as kept:
        for entry in whole.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, whole.read(entry))


def _metadata(run: RunFolder, name: str) -> dict[str, Any]:
    """What the bundle says of itself; `image` and `pred` are what MONAI calls input and output.

    No text begins as another party says: MONAI runs those that begin with `$`, and replaces more.
    """
    facts, image = run.facts(), run.recipe().image
    names = [_inert(name) for name in facts.scope.modalities]
    labels = {number: _inert(name) for number, name in facts.scope.labels.items()}
    common = {
        "type": "image", "modality": "n/a", "spatial_shape": list(facts.scope.space),
        "dtype": "float32", "is_patch_data": False,
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by asyndgan {version('asyndgan')}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            package: version(package) for package in ["nibabel" if image.whole else "pillow"]
        },
        "supported_apps": {},
        "name": _inert(name),
        "task": f"Synthetic {', '.join(names)} from label maps",
        "description": "Paints synthetic images from label maps. None was acquired from a patient.",
        "intended_use": "Research, such as training of segmentation models. Not for diagnosis.",
        "authors": f"Trained by {', '.join(facts.teachers)}",
        "copyright": _licence(run),
        "network_data_format": {
            "inputs": {
                "image": common | {
                    "format": "segmentation", "num_channels": 1,
                    "value_range": [min(labels), max(labels)],
                    "channel_def": {"0": ", ".join(f"{n} {of}" for n, of in labels.items())},
                },
            },
            "outputs": {
                "pred": common | {
                    "format": "magnitude", "num_channels": len(names),
                    "value_range": [IMAGE_LOW, IMAGE_HIGH],
                    "channel_def": {
                        str(place): f"synthetic {each}" for place, each in enumerate(names)
                    },
                },
            },
        },
    }  # fmt: skip


def _inert(name: str) -> str:
    """A name without the signs that MONAI replaces wherever they stand."""
    return re.sub("[@#%]", "_", name)


def _inference(run: RunFolder, looks: list[str]) -> dict[str, Any]:
    """The configuration that `monai.bundle run` paints a folder of masks by."""
    image = run.recipe().image
    ending, found = (".nii.gz", "*.nii*") if image.whole else (".png", "*.png")
    turned: dict[str, Any] = {"_target_": "Transposed", "indices": [0, 2, 1]}  # columns come first
    back = turned
    if image.whole:
        turned = {"_target_": "Orientationd", "axcodes": VIEWED[image.axis], "labels": None}
        back = turned | {"axcodes": "RAS"}
    begin = [
        f"$@masks or sys.exit('No {found} in ' + @masks_dir + ': put label maps there.')",
        "$os.path.exists(@output_dir) and os.listdir(@output_dir) and sys.exit(@output_dir + "
        "' holds something: name a new folder.')",
        "$monai.utils.set_determinism(seed=@seed)", "$torch.set_grad_enabled(False)",
    ]  # fmt: skip
    if looks:
        begin.append(
            "$str(@look) in ['', *@looks] or sys.exit('There is no look ' + str(@look) "
            "+ '. There are: ' + ', '.join(@looks))"
        )
        begin.append(
            "$@network_def.shares.copy_(torch.eye(len(@looks))[@looks.index(str(@look))]) "
            "if str(@look) else None"
        )
    return {
        "imports": [
            "$import glob", "$import json", "$import os", "$import sys", "$import monai",
            "$import numpy", "$import torch", "$from collections import deque",
            "$from pathlib import Path", "$from monai.data import MetaTensor",
            "$from monai.transforms import Resize",
        ],
        "bundle_root": ".",
        "masks_dir": "$@bundle_root + '/masks'",
        "output_dir": "$@bundle_root + '/synthetic'",
        "seed": 0,
        **({"looks": looks, "look": ""} if looks else {}),
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "masks": f"$sorted(glob.glob(os.path.join(@masks_dir, '{found}')))",
        "network_def": (
            "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()"
        ),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "mask", "ensure_channel_first": True},
                {"_target_": "Lambdad", "keys": "mask", "func": _checked(run)},
                {**turned, "keys": "mask"},
                {"_target_": "Lambdad", "keys": "mask", "func": _resized(image)},
                {"_target_": "ResizeWithPadOrCropd", "keys": "mask",
                 "spatial_size": list(image.size)},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'mask': each} for each in @masks]",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": _stored(run, back, ending)},
        "initialize": [
            *begin, "$os.makedirs(@output_dir, exist_ok=True)",  # first, to mark what is painted
            f"$Path(@output_dir, 'dataset.json').write_text(json.dumps({{**json.loads("
            f"{_described(run, ending)!r}), 'numTraining': len(@masks)}}, indent=2))",
        ],
        "run": [
            "$deque((@postprocessing({**item, 'image': MetaTensor(@inferer(item['mask'].as_tensor()"
            "[None].to(@device), @network_def)[0].cpu(), meta=item['mask'].meta)}) "
            "for item in @dataset), maxlen=0)",
            "$print(len(@masks), 'masks painted:', @output_dir)",
        ],
    }  # fmt: skip


def _checked(run: RunFolder) -> str:
    """The expression that ends the program at a mask with a label that nothing was learned of."""
    known = sorted({0, *run.facts().scope.labels})  # 0 need not be named
    named = ", ".join(map(str, known))
    return (
        f"$lambda mask: mask if {{*numpy.unique(mask)}} <= {{*{known}}} else sys.exit("
        "str(mask.meta['filename_or_obj']) + ' holds labels ' + "
        "', '.join(map('{:g}'.format, numpy.unique(mask))) + "
        f"'; this generator knows {named}. Renumber them.')"
    )


def _described(run: RunFolder, ending: str) -> str:
    """What dataset.json says of the images, without signs that MONAI replaces in a text."""
    facts = run.facts()
    about = {
        "name": "synthetic", "channel_names": dict(enumerate(facts.modalities)),
        "labels": {name: int(number) for number, name in facts.labels.items()},
        "file_ending": ending, "synthetic": True, "release": facts.generator_sha256[:12],
        "licence": licence_of(run.path, masks=False),
    }  # fmt: skip
    text = json.dumps(about)
    for sign in "@#%":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _resized(image: ImageSection) -> str:
    """The expression that brings a mask to the recipe's grid, before it is cropped and padded."""
    if image.spacing:
        factors = f"[mm / to for mm, to in zip(mask.pixdim, {list(image.spacing)})]"
    elif image.fit == "stretch":
        return f"$Resize({list(image.size)}, mode='nearest-exact')"
    else:
        most = "min" if image.fit == "pad" else "max"
        sides = f"zip(mask.shape[1:], mask.pixdim, {list(image.size)})"
        factors = f"({most}(to / (side * mm) for side, mm, to in {sides}) * mask.pixdim)"
    return (
        f"$lambda mask: Resize([max(1, round(float(side * by))) for side, by in "
        f"zip(mask.shape[1:], {factors})], mode='nearest-exact')(mask)"
    )


def _stored(run: RunFolder, back: dict[str, Any], ending: str) -> list[dict[str, Any]]:
    """Transforms that store images, one file a modality, and the mask that was painted."""
    image, names = run.recipe().image, run.facts().scope.modalities
    keys = [f"image_{place}" for place in range(len(names))]
    split: list[dict[str, Any]] = [{
        "_target_": "SplitDimd", "keys": "image",
        "output_postfixes": [str(place) for place in range(len(names))],
    }]  # fmt: skip
    if not image.whole and in_colour(names):
        keys, split = ["image"], []
    writer = "NibabelWriter" if image.whole else "PILWriter"
    store = {
        "_target_": "SaveImaged", "output_ext": ending, "resample": False, "writer": writer,
        "separate_folder": False, "print_log": False,
    }  # fmt: skip
    stored = []
    for place, key in enumerate(keys):
        how = image.intensity_of(names[place])
        fixed = how if image.whole and how.kind == "range" else SYNTHETIC_INTENSITY
        half = 0.0 if image.whole else 0.5  # pictures are stored in 8 bits, cut off
        stored += [
            {"_target_": "ScaleIntensityRanged", "keys": key, "a_min": IMAGE_LOW,
             "a_max": IMAGE_HIGH, "b_min": fixed.low + half, "b_max": fixed.high + half},
            {**store, "keys": key, "output_dir": "$@output_dir + '/imagesTr'",
             "output_postfix": f"{place:04}"},
        ]  # fmt: skip
    return [
        *split,
        {**back, "keys": [*keys, "mask"]},
        *stored,
        {**store, "keys": "mask", "output_dir": "$@output_dir + '/labelsTr'",
         "output_postfix": "", "output_dtype": "$numpy.uint8"},
    ]  # fmt: skip
