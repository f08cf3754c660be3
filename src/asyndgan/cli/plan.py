"""`asyndgan plan`: plans a recipe from the sites' data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from asyndgan.cli.following import too_few_for
from asyndgan.cli.options import (
    AsJson,
    Hours,
    Overrides,
    StudyOption,
    Volumes,
    parsed_sites,
    print_json,
)
from asyndgan.cli.terminal import Terminal, plain
from asyndgan.errors import RecipeError
from asyndgan.recipe.planning import BASE
from asyndgan.runs.study import site_names
from asyndgan.texts import counted, replace_text

if TYPE_CHECKING:
    from asyndgan.runs.planned import Planned


def plan(
    sites: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER_OR_JSON",
            help="A site's data set, or its fingerprint. The site bears its name; NAME=PATH gives "
            "another.",
        ),
    ],
    out: Path | None = None,
    volumes: Volumes = False,
    hours: Hours = 1.0,
    overrides: Overrides = None,
    as_json: AsJson = False,
    study: StudyOption = None,
) -> None:
    """Plans a recipe from sites' data, each value with a reason.

    What the plan does not name is as in the recipe 'default'.

    Example:
        asyndgan plan data/north south.json --out recipe.toml

    Output:
        --out FILE: New file for the recipe, with the reasons as comments.
    """
    from asyndgan.reports.words import duration, size
    from asyndgan.runs.planned import planned, seconds, traffic, within

    if out:
        refuse_old(out)
    made = planned(_named(sites), overrides or [], volumes=volumes, fits=within(hours))
    console = Terminal(stderr=as_json)
    tell_plan(console, made)
    if as_json:
        print_json(as_values(made))
    if out:
        write_new(out, made.to_toml())
        console.say(f"Written to {out}.")
    if not made.plan:
        return
    console.say("Now a step is timed on this machine.")
    sent, received = traffic(made.recipe, made.sites)
    console.say(
        f"Expected: about {duration(seconds(made.recipe, len(made.sites)))} if this machine "
        f"computes all sites; {size(sent)} to and {size(received)} from each site before "
        "compression."
    )


def tell_plan(console: Terminal, made: "Planned") -> None:
    """Prints a line for each rule that set something, and what contradicts between sites.

    Of a recipe of tables it prints what is generated.
    """
    if table := made.recipe.table:
        kinds = ", ".join(
            f"{sum(column.kind == kind for column in table.columns)} {kind}"
            for kind in ("numeric", "integer", "categorical")
        )
        shares = ", ".join(f"{name} {share:.1%}" for name, share in table.classes.items())
        console.say(f"Planned for a table of {len(table.columns)} columns ({kinds}).")
        console.say(f"Records are made for each class of {table.target}: {shares}.")
    if not made.plan:
        return
    told = (
        f"{name} ({counted(one.patients, 'patient') if one.patients else 'few patients'})"
        for name, one in made.sites.items()
    )
    console.say(f"Planned for {', '.join(told)}; all else is as in the recipe '{BASE}':")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", overflow="fold", max_width=36)
    grid.add_column(overflow="fold")
    values: dict[str, list[str]] = {}
    for choice in made.plan.kept(made.recipe):
        values.setdefault(choice.reason, []).append(f"{choice.name} {_shown(choice.value)}")
    for reason, chosen in values.items():
        grid.add_row("\n".join(chosen), reason)
    console.print(grid)
    # A site of very few patients does not tell how many.
    patients = sum(one.patients or 0 for one in made.sites.values())
    for note in [*made.notes, *too_few_for(made.recipe, patients)]:
        console.print(plain(f"! {note}", "yellow"))


def as_values(made: "Planned") -> dict[str, Any]:
    """A plan for scripts: the recipe, the reason of each value that the plan chose, and notes."""
    chosen = made.plan.kept(made.recipe) if made.plan else ()
    reasons = {choice.name: choice.reason for choice in chosen}
    return {"recipe": made.recipe.to_tables(), "reasons": reasons, "notes": made.notes}


def write_new(path: Path, text: str) -> None:
    """Writes a file that does not exist yet; raises `RecipeError` if it does."""
    refuse_old(path)
    replace_text(path, text)


def refuse_old(path: Path) -> None:
    """Raises `RecipeError` for a file that exists."""
    if path.exists():
        raise RecipeError(f"--out {path}: exists already; name a new file.")


def _named(words: list[str]) -> dict[str, Path]:
    """The sites' paths by name: that of NAME=PATH or, as 'init' names it, of the folder or file."""
    plain = [word for word in words if "=" not in word or Path(word).exists()]
    given = [word.partition("=")[0] for word in words if word not in plain]
    names = iter(site_names([Path(word) for word in plain], taken=given))
    pairs = [f"{next(names)}={word}" if word in plain else word for word in words]
    return parsed_sites(pairs, "FOLDER_OR_JSON")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['kind']} {value['low']:g} to {value['high']:g}"
    if isinstance(value, list):
        return " x ".join(f"{each:g}" for each in value)
    return str(value).lower()
