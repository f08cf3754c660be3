"""How much of a gradient's direction each coding of feedback keeps, and its size.

    python benchmarks/codings.py

Feedback of the `demo` recipe on phantoms at one site, after a few steps; mean cosine over images.
"""

import tempfile
from pathlib import Path

import torch

from asyndgan.data.phantoms import write_phantoms
from asyndgan.engines import InProcess, SiteSetup, set_up
from asyndgan.protocol import Exchange
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator
from asyndgan.wire.codec import decode, encode, raw_size

STEPS = 30


def main() -> None:
    """Trains a little, then codes the feedback of further steps."""
    torch.set_num_threads(1)
    recipe = load_recipe("demo", ["wire.feedback=float32", "wire.images=float32"])
    feedback: list[torch.Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), size=64, patients_scale=0.2)
        setup = SiteSetup("north", Path(folder) / "north", Path(folder) / "state")
        exchange = Exchange(InProcess({"north": set_up(setup, recipe)}), recipe)
        coordinator = Coordinator.begin(recipe, exchange, run="be")
        take = coordinator._take

        def spy(answers: dict, missed: dict) -> object:
            feedback.extend(answer.feedback for answer in answers.values())
            return take(answers, missed)

        coordinator._take = spy  # type: ignore[method-assign]  # a look at what goes by
        for _ in range(STEPS):
            coordinator.step()
    sent = feedback[STEPS // 2 :]
    print(f"{'coding':10}{'cosine':>10}{'raw bytes':>12}{'with zstd':>12}")
    for coding in ("float32", "float16", "int8", "int4"):
        cosines, raw, packed = [], 0, 0
        for gradient in sent:
            body = encode(gradient, coding)
            back = decode(body, tuple(gradient.shape), coding)
            pairs = zip(gradient.flatten(1), back.flatten(1), strict=True)
            cosines += [torch.cosine_similarity(a, b, dim=0) for a, b in pairs]
            raw += raw_size(tuple(gradient.shape), coding)
            packed += len(body)
        mean = float(torch.stack(cosines).mean())
        print(f"{coding:10}{mean:10.5f}{raw / len(sent):12.0f}{packed / len(sent):12.0f}")


if __name__ == "__main__":
    main()
