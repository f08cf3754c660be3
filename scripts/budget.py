"""Fails where a package of src/ has more lines than [tool.budget] in pyproject.toml allows it."""

import sys
import tomllib
from pathlib import Path

root = Path(__file__).parents[1]
most = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["budget"]
lines: dict[str, int] = {}
for path in (root / "src" / "asyndgan").rglob("*.py"):
    package, *below = path.relative_to(root / "src" / "asyndgan").parts
    package = package if below else "small modules"
    lines[package] = lines.get(package, 0) + len(path.read_text("utf-8").splitlines())
over = [
    f"{package} has {count:,} lines, {most.get(package, 0):,} allowed"
    for package, count in sorted(lines.items())
    if count > most.get(package, 0)
]
over += [f"{package} is in the budget and not in src/" for package in sorted({*most} - {*lines})]
sys.stdout.write(f"{sum(lines.values()):,} lines in src/, {sum(most.values()):,} allowed.\n")
if over:
    sys.exit("\n".join([*over, "Delete lines, or argue for more in [tool.budget]."]))
