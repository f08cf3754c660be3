"""Builds networks and losses by their name in a recipe; other packages add entry points."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Noise
from asyndgan.errors import RecipeError, RunError
from asyndgan.models.discriminators import CrossFitted
from asyndgan.models.installed import part
from asyndgan.models.layout import channels_last
from asyndgan.models.losses import AdversarialLoss
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import Recipe
from asyndgan.store import derived_seed

MOST_WEIGHTS: Final = 500_000_000  # 2 GB, with gradients and Adam's moments four times as much

MOST_PRIVATE_WEIGHTS: Final = MOST_WEIGHTS // 32
"""Most weights of a discriminator trained privately: gradients of 32 images are held at once."""


def build_generator(recipe: Recipe, sizes: Sizes) -> nn.Module:
    """The generator of a recipe."""
    kind, section = recipe.generator.kind, recipe.generator
    build = partial(part("generators", kind), sizes, section, **_of_table(recipe))
    _check_bearable(build, f"a generator of kind '{kind}'", MOST_WEIGHTS)
    return channels_last(build())


def build_discriminator(recipe: Recipe, sizes: Sizes) -> nn.Module:
    """A site's discriminator, for the modalities that the site holds."""
    private = recipe.privacy.kind == "discriminator"
    kind, section = recipe.discriminator.kind, recipe.discriminator
    build = partial(part("discriminators", kind), sizes, section, **_of_table(recipe))
    copies = 2 if section.cross_fitted else 1
    what = f"a {'private ' if private else ''}discriminator of kind '{kind}'"
    _check_bearable(build, what, MOST_PRIVATE_WEIGHTS if private else MOST_WEIGHTS, copies)
    network: nn.Module = build()
    if section.cross_fitted:
        network = CrossFitted([network, build()], mean=kind == "masks")
    # Opacus supports only torch's own layers, not those of `channels_last`.
    return network if private else channels_last(network)


def _of_table(recipe: Recipe) -> dict[str, Any]:
    """What networks of records are given beside their section: the table's columns."""
    return {"table": recipe.table} if recipe.table else {}


_COUNTED: Final = dict[tuple[Any, str], int]()


def _check_bearable(build: "partial[nn.Module]", what: str, most: int, copies: int = 1) -> None:
    """Raises `RecipeError` if so many copies of a network would have more than `most` weights."""
    key = build.func, repr((build.args, build.keywords))
    if key not in _COUNTED:
        with torch.device("meta"):
            _COUNTED[key] = sum(weights.numel() for weights in build().parameters())
    if (count := copies * _COUNTED[key]) > most:
        raise RecipeError(
            f"{what} would have {count:,} weights; it may have {most:,}. Lower its width, layers "
            "or blocks in the recipe."
        )


def build_adversarial_loss(recipe: Recipe) -> AdversarialLoss:
    """The adversarial loss of a recipe."""
    loss: AdversarialLoss = part("adversarial_losses", recipe.loss.adversarial)()
    return loss


def condition_channels(kind: str, labels: int) -> int:
    """Number of maps that `condition_maps` returns."""
    return 0 if kind == "none" else labels


def condition_maps(
    condition: Tensor, *, kind: str, labels: int, space: tuple[int, ...]
) -> Condition:
    """Conditions as the maps that networks read, one-hot (b, labels, *space).

    Of integers, (b, *space) for `mask` and (b,) for `class`; for `none` (b, 0, *space).
    """
    b = condition.shape[0]
    if kind == "none":
        return torch.zeros(b, 0, *space, device=condition.device)
    one_hot = F.one_hot(condition.long(), labels).movedim(-1, 1).float()
    if kind == "class":
        one_hot = one_hot.reshape(b, labels, *[1] * len(space)).expand(b, labels, *space)
    return one_hot


def arithmetic(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a recipe's networks run; weights and gradients stay float32."""
    half = precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def usable_device(name: str) -> torch.device:
    """A device: `cpu`, `cuda`, `cuda:1`, `mps`; raises `RunError` if this machine has none such."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        raise RunError(
            f"device '{name}' cannot be used on this machine; {_devices()}. Name one of these, or "
            "install the build of torch that fits the machine."
        ) from error
    return device


def _devices() -> str:
    count = torch.cuda.device_count()
    devices = ["cpu", *(f"cuda:{number}" for number in range(count))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"there is {', '.join(devices)}"


def native_bfloat16() -> bool:
    """Whether this processor computes in bfloat16; otherwise torch emulates it, slowly."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def draw_noise(count: int, channels: int, space: tuple[int, ...], random: torch.Generator) -> Noise:
    """Standard normal maps (count, channels, *space), drawn on the CPU so that devices agree."""
    return torch.randn(count, channels, *space, generator=random)


def style_code(seed: int, look: str, size: int) -> Tensor:
    """The code of a look for the generator: random numbers fixed by the seed and its name."""
    random = torch.Generator().manual_seed(derived_seed(seed, "style", look))
    return torch.randn(size, generator=random)


def site_noise(
    recipe: Recipe, looks: Sequence[str], space: tuple[int, ...], random: torch.Generator
) -> Noise:
    """Noise for one image in each of these looks, followed by `generator.code` constant maps."""
    section = recipe.generator
    noise = draw_noise(len(looks), section.noise, space, random)
    if not section.code:
        return noise
    styles = [style_code(recipe.training.seed, look, section.style) for look in looks]
    latent = torch.randn(len(looks), section.latent, generator=random)
    codes = torch.cat([torch.stack(styles), latent], dim=1)
    maps = codes.reshape(*codes.shape, *[1] * len(space)).expand(-1, -1, *space)
    return torch.cat([noise, maps], dim=1)
