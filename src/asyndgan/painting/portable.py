"""A finished run's generator in a form that paints without asyndgan: ONNX, or a traced network."""

import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Images
from asyndgan.errors import MissingPackageError, RunError
from asyndgan.export.writing import written_whole
from asyndgan.models.layout import batch_free
from asyndgan.models.parts import condition_maps, style_code
from asyndgan.painting.card import generator_card
from asyndgan.painting.painter import looks_of_holders
from asyndgan.painting.synthesise import check_paintable
from asyndgan.runs import RunFolder
from asyndgan.store.augmentation import deformed
from asyndgan.training.scope import SHARED_LOOK

OPSET: Final = 17
EXACT: Final = 1e-4
"""Largest difference between a painted value, from -1 to 1, and that of the exported network."""


@final
class Apart(nn.Module):
    """A run's generator, whose noise and code are inputs of their own.

    Raises:
        RunError: the run has not finished, paints without masks, or paints what no site judged.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        recipe, scope = run.recipe(), run.facts().scope
        run.check_masked(
            ", and only a generator that paints from masks can be exported. 'asyndgan generate' "
            "makes a set of it."
        )
        check_paintable(recipe, run.facts(), draws=1)
        self.network, self.space = batch_free(run.generator()), scope.space
        sizes = {
            "mask": (max(scope.labels) + 1, *scope.space),  # one-hot maps
            "noise": (recipe.generator.noise, *scope.space),  # standard normal
            "code": (recipe.generator.code,),  # the style of a look, then standard normal numbers
        }
        self.sizes = {name: size for name, size in sizes.items() if size[0]}
        self.names = tuple(self.sizes)  # of the inputs

    def forward(self, mask: Tensor, *drawn: Tensor) -> Images:
        """Paints images (b, c, *space) in [-1, 1]."""
        maps = list(drawn)
        if "code" in self.names:
            code = maps[-1][(..., *[None] * len(self.space))]
            maps[-1] = code.expand(-1, -1, *self.space)
        images: Images = self.network(mask, torch.cat(maps, dim=1) if maps else mask[:, :0])
        return images

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs of two images."""
        return tuple(torch.randn(2, *size) for size in self.sizes.values())


@final
class Alone(nn.Module):
    """Paints from label maps alone: it draws noise, codes and looks from torch's random state."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.apart, recipe, facts = Apart(run), run.recipe(), run.facts()
        self.section, self.labels = recipe.generator, max(facts.scope.labels) + 1
        styled = bool(recipe.generator.style)
        self.looks = list(facts.teachers) if styled else []  # sites in whose look it paints
        own = [facts.look_of(site) for site in self.looks] or [SHARED_LOOK]
        random = torch.Generator().manual_seed(0)
        # what a look's site lacks is painted in the look of another that holds it, always the same
        others = looks_of_holders(facts, own, random) if styled else {}
        worn = [tuple(others.get(place, own)) for place in range(len(facts.scope.modalities))]
        ways = list(dict.fromkeys(worn))
        self.way_of = [ways.index(each) for each in worn]
        seed, style = recipe.training.seed, recipe.generator.style
        codes = [torch.stack([style_code(seed, look, style) for look in way]) for way in ways]
        self.codes: Tensor
        self.shares: Tensor
        self.register_buffer("codes", torch.stack(codes))  # (ways, looks, style)
        shares = [float(facts.sites[site]["share"]) for site in self.looks] or [1.0]
        self.register_buffer("shares", torch.tensor(shares))  # how probable each look is (looks,)

    def forward(self, masks: Tensor) -> Images:
        """Paints images (b, c, *space) in [-1, 1] from label maps (b, 1, *space) of any type."""
        count, space, section = masks.shape[0], self.apart.space, self.section
        # Drawn on the CPU, so that devices agree, and as `site_noise` does. Traced, `to` would keep
        # the device of today as a constant.
        noise = torch.randn(count, section.noise, *space).type_as(self.codes)
        latent = torch.randn(count, section.latent).type_as(self.codes)
        labels = masks[:, 0].round().long()
        if section.deform:
            labels = deformed(labels, section.deform, None)
        maps = condition_maps(labels, kind="mask", labels=self.labels, space=space)
        looks = torch.multinomial(self.shares, count, replacement=True)
        painted = []
        for codes in self.codes:
            code = torch.cat([codes[looks], latent], dim=1)
            drawn = {"noise": noise, "code": code}
            given = [drawn[name] for name in self.apart.names[1:]]
            painted.append(self.apart(maps, *given))
        if len(painted) == 1:
            return painted[0]
        parts = [painted[way][:, place, None] for place, way in enumerate(self.way_of)]
        return torch.cat(parts, dim=1)

    def examples(self) -> tuple[Tensor]:
        """Label maps of two images."""
        return (torch.randint(self.labels, (2, 1, *self.apart.space)).float(),)


def traced(network: Apart | Alone) -> torch.jit.ScriptModule:
    """The operations of a network, for any number of images.

    Raises `RunError` if torch cannot follow what the network does, or it would paint otherwise.
    """
    examples = network.eval().examples()
    more = [torch.cat([each, each[:1]]) for each in examples]
    with torch.no_grad(), torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sides, which are constants
        try:
            found = torch.jit.trace(network, examples, check_trace=False)
            painted = []
            for each in (network, found):
                torch.manual_seed(0)
                painted.append(each(*more))
            same = torch.allclose(painted[0], painted[1], rtol=0, atol=EXACT)
        except RuntimeError as error:
            raise RunError(f"this run's generator cannot be exported: {error}") from error
    if not same:
        raise RunError(
            "this run's generator cannot be exported: exported, it would paint other images. Its "
            "operations must not depend on the number of images."
        )
    return found


def write_onnx(run: RunFolder, folder: Path) -> None:
    """Writes a generator as `generator.onnx` to a new folder, with what its inputs mean and a card.

    Raises:
        MissingPackageError: the package onnx is not installed.
        RunError: as `Apart` and `traced`.
        DataError: `folder` cannot be written.
    """
    if find_spec("onnx") is None:
        raise MissingPackageError("ONNX files", "onnx", "onnx")
    network = Apart(run)
    network.eval()
    with written_whole(folder) as half, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half.mkdir(parents=True)
        torch.onnx.export(
            traced(network), network.examples(), str(half / "generator.onnx"),
            # The other exporter would need onnxscript as well.
            dynamo=False, opset_version=OPSET, input_names=[*network.names],
            output_names=["image"],
            dynamic_axes={name: {0: "images"} for name in (*network.names, "image")},
        )  # fmt: skip
        text = json.dumps(described(run, network), indent=2, ensure_ascii=False)
        (half / "generator.json").write_text(text + "\n", "utf-8")
        (half / "README.md").write_text(generator_card(run, "onnx"), "utf-8")


def described(run: RunFolder, network: Apart) -> Mapping[str, Any]:
    """What the inputs and the output of a generator mean, in plain values."""
    recipe, facts = run.recipe(), run.facts()
    styled, seed = recipe.generator.style, recipe.training.seed
    return {
        "inputs": {name: ["images", *size] for name, size in network.sizes.items()},
        "modalities": list(facts.scope.modalities),
        "labels": {str(number): name for number, name in facts.scope.labels.items()},
        "range": [-1.0, 1.0],
        "deform": recipe.generator.deform,
        "latent": recipe.generator.latent,
        "looks": {
            site: {
                "share": about["share"],
                "modalities": about["modalities"],
                "style": style_code(seed, facts.look_of(site), styled).tolist(),
            }
            for site, about in (facts.teachers.items() if styled else ())
        },
    }
