"""Bytes of a step: `default`'s coding of feedback and images against `float32`, after zstd.

    python -m lab.experiments.wire --data DATA --out OUT

The first steps of `default`, with gradients computed in float32, as it is, and in bfloat16, of
which half of the bits are zero, so that zstd removes them. Bytes are those of an average site, both
ways, its masks included.
"""

from itertools import product

import torch

from asyndgan.runs import RunFolder, load_recipe
from lab.experiments.common import (
    MADE_ANEW,
    arguments,
    emptied,
    markdown,
    publish,
    sites_of,
    trained,
)

STEPS = 40
FLOAT32 = ("wire.feedback=float32", "wire.images=float32")


def bytes_a_step(run: RunFolder) -> float:
    """Bytes that a site sends and is sent in a step, mean over sites and steps."""
    facts = run.facts()
    moved = [*facts.left_sites.values(), *facts.came_to_sites.values()]
    total = sum(kinds.get(kind, 0) for kinds in moved for kind in ("judge", "judgement"))
    return total / len(facts.sites) / facts.steps


def main() -> None:
    """Trains for a few steps with both codings, then prints and writes the table."""
    parser = arguments(__doc__, out=MADE_ANEW)
    parser.add_argument("--sets", nargs="+", default=["lgg_mri", "dsb2018_fluo"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    out, rows = emptied(asked.out), []
    for part, size, precision in product(asked.sets, asked.sizes, asked.precisions):
        moved: list[float] = []
        for name, coding in (("default", ()), ("float32", FLOAT32)):
            own = {"image.size": size, "training.steps": STEPS, "training.precision": precision}
            given = [f"{key}={value}" for key, value in own.items()]
            recipe = load_recipe("default", ("masks.source=own", *given, *coding))
            place = out / f"{part}-{size}-{precision}-{name}"
            moved.append(bytes_a_step(trained(recipe, sites_of(asked.data, part), place)))
        shown = [f"{each / 1000:.1f} kB" for each in moved]
        rows.append([part, size, precision, *shown, f"{moved[1] / moved[0]:.1f}"])
    heading = ["set", "pixels", "computed in", "`default`", "`float32`", "times less"]
    publish(markdown(heading, rows), "wire", asked.document)


if __name__ == "__main__":
    main()
