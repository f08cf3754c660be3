"""The table of docs/evidence.md out of several `evaluation.json`.

    python benchmarks/evidence_table.py LABEL=FOLDER ...

Real models come from the first folder; each further one adds its synthetic row, named by
LABEL.
"""

import json
import sys
from pathlib import Path

HEAD = """| trained on | cases | Dice | 95 % interval | of all-real | 95 % interval | HD95 | ASSD |
|---|---|---|---|---|---|---|---|"""


def line(name: str, row: dict[str, float]) -> str:
    """One row in Markdown."""
    return (
        f"| {name} | {row['cases']} | {row['dice_mean']:.3f} "
        f"| {row['dice_low']:.3f} to {row['dice_high']:.3f} "
        f"| {row['ratio']:.3f} | {row['ratio_low']:.3f} to {row['ratio_high']:.3f} "
        f"| {row['hd95_mean']:.1f} | {row['assd_mean']:.1f} |"
    )


def main() -> None:
    """Prints the table."""
    print(HEAD)
    for number, argument in enumerate(sys.argv[1:]):
        label, _, folder = argument.partition("=")
        rows = json.loads((Path(folder) / "evaluation.json").read_text())["rows"]
        for row in rows:
            if row["model"] == "synthetic":
                print(line(f"**synthetic, {label}**", row))
            elif number == 0:
                print(line(row["model"], row))


if __name__ == "__main__":
    main()
