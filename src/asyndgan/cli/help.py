"""Help pages: an example, what the command does, its usage, and its options by topic.

A command's docstring holds the example below `Example:`, and below the name of a topic each option
that is its own: `--name METAVAR: text`. `SHARED` describes options of several commands.
"""

import inspect
import re
from collections.abc import Iterable
from os.path import expanduser
from textwrap import dedent
from typing import Any, Final, final

import typer
from typer.core import TyperCommand, TyperGroup

from asyndgan.cli.study import HINT, TAKEN, completed

OTHER: Final = "Other"
"""Heading of the options without a topic (`rich_help_panel`)."""

OPTION: Final = re.compile(r"^(--\S+) ?(\S*): (.+(?:\n .+)*)", re.MULTILINE)
"""An option as a docstring describes it: its name, its metavar if it is no flag, and its text."""

SHARED: Final = """
Data:
    --study FILE: Study, which 'asyndgan init' writes: it gives what the command line leaves out,
        and --site may name its sites without folders. Without a run and a site's folder, it is
        study.toml in the current folder.
    --site NAME=FOLDER: A site and the folder of its data set.
    --state NAME=FOLDER: The folder in which a site kept its state of the run, which records the
        patients that it trained on. In a federation: KIT/runs/RUN. By default the run folder.

Training:
    --set KEY=VALUE: Override a key of the recipe, such as image.size=128. A list is written as
        image.size=48x64 or image.modalities=T1,T2.
    --hours N: Hours that a planned training may take if this machine computes all sites. Images get
        as many pixels as fit, from 64 along a side to 256 (volumes from 48 to 128), and at most as
        many as they have: the least if a site's data is elsewhere.
    --volumes: Plan for whole volumes, not for their slices.
    --from RUN: Folder of a finished run. Begin with its generator, as far as it fits: labels and
        modalities are matched by name. So you also train a finished run for longer.

Painting:
    --fade LABEL: Vary from image to image how clearly this label, such as a lesion, is visible. The
        run must have trained on images without the label.
    --seed N: Random seed.

Computation:
    --device DEVICE: Device of the networks: cpu, cuda, cuda:1 or mps.

Page:
    --port N: Port to listen on. By default any that is free.
    --no-browser: Print the address alone.

Run:
    --run NAME: Name of the run. By default the newest run.

Output:
    --out FOLDER: New folder to write.
    --json: Print JSON, for scripts.
"""


AT_HOME: Final = re.compile(r"(^|=)(~[^/=]*)(?=/|$)")


def at_home(word: str) -> str:
    """A word of the command line, with the user's folder for `~` where a path begins.

    A shell expands it at a word's beginning only, and not in `--out=~/run`. Of nobody it stays.
    """
    return AT_HOME.sub(lambda found: found[1] + expanduser(found[2]), word)  # noqa: PTH111


class _Page:
    """Help that is written here, and the usage line that errors repeat."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Writes the usage line."""
        command: Any = self
        formatter.write_usage(ctx.command_path, _usage(command, command.get_params(ctx)))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the page."""
        _write_page(self, ctx, formatter)


@final
class Command(_Page, TyperCommand):
    """A command whose help fits 80 columns and begins with an example, from its docstring."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        told = {
            name: (topic, metavar or None, " ".join(text.split()))
            for described in (SHARED, self.help or "")
            for topic, below in _parts(described)[1].items()
            for name, metavar, text in OPTION.findall(below)
        }
        parameters: list[Any] = self.params
        for each in parameters:
            if each.opts[0] in told:
                each.rich_help_panel, each.metavar, each.help = told[each.opts[0]]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the words of the command line, and those that a study adds."""
        args = [at_home(word) for word in args]
        try:
            return super().parse_args(ctx, completed(self, ctx, args))
        except typer.BadParameter as error:
            studied = any(each.name == "study" for each in self.params)
            taken = TAKEN[str(self.name)].split() if studied else []
            if not error.message and error.param and error.param.name in taken:  # it is missing
                error.message = HINT
            raise


class Group(_Page, TyperGroup):
    """A command with commands below it, whose help is written as theirs is."""


@final
class Commands(typer.Typer):
    """Commands whose help is written here.

    Args:
        help: what they are for, with an example as in a docstring.
        cls: class of the group.
        options: those of `typer.Typer`.
    """

    def __init__(self, help: str, cls: type[Group] = Group, **options: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"]}
        options = {"no_args_is_help": True, "add_completion": False, **options}
        super().__init__(
            cls=cls, help=help, context_settings=settings, rich_markup_mode=None, **options
        )

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Registers a function as a command, as `typer.Typer` does."""
        return super().command(name, cls=Command, **options)


def _write_page(command: Any, ctx: Any, formatter: Any) -> None:
    examples, text = parts_of(command.help or "")
    if examples:
        with formatter.section("Example"):
            for line in examples:
                formatter.write(f"  {line}\n")
        formatter.write("\n")
    formatter.write_text(text)
    formatter.write_paragraph()
    parameters = command.get_params(ctx)
    command.format_usage(ctx, formatter)
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        panel = (
            "Arguments"
            if _is_argument(parameter)
            else getattr(parameter, "rich_help_panel", None) or OTHER
        )
        if not parameter.hidden:
            panels.setdefault(panel, []).append((_name(parameter), _explained(parameter, ctx)))
    if isinstance(command, TyperGroup):
        rows = ((name, command.get_command(ctx, name)) for name in command.list_commands(ctx))
        panels["Commands"] = [(name, _first_sentence(each)) for name, each in rows]
    for panel in sorted(panels, key=lambda name: name == OTHER):
        with formatter.section(panel):
            formatter.write_dl(panels[panel])


def parts_of(help: str) -> tuple[list[str], str]:
    """The lines of a help's example, and its paragraphs."""
    text, sections = _parts(help)
    return sections.get("Example", "").splitlines(), text


def _parts(help: str) -> tuple[str, dict[str, str]]:
    """The paragraphs of a docstring, and the indented lines below each heading."""
    text, sections = [], {}
    for block in inspect.cleandoc(help).split("\n\n"):
        heading, indented, below = block.partition(":\n ")
        if indented and "\n" not in heading:
            sections[heading] = dedent(f" {below}")
        else:
            text.append(block)
    return "\n\n".join(text), sections


def _first_sentence(command: Any) -> str:
    return parts_of(command.help or "")[1].partition("\n\n")[0].replace("\n", " ")


def _usage(command: Any, parameters: Iterable[Any]) -> str:
    words = []
    for each in sorted(parameters, key=_is_argument, reverse=True):
        if each.required or _is_argument(each):
            words.append(_name(each) if each.required else f"[{_name(each)}]")
    return " ".join([*words, "[OPTIONS]", *["COMMAND"] * isinstance(command, TyperGroup)])


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(parameter: Any) -> str:
    word = parameter.metavar or parameter.name.upper()
    if _is_argument(parameter):
        return word + ("..." if parameter.nargs != 1 else "")
    names = ", ".join(sorted([*parameter.opts, *parameter.secondary_opts], key=len))
    return names if parameter.is_flag else f"{names} {word}"


def _explained(parameter: Any, ctx: Any) -> str:
    """The text of a parameter, with whether it is needed, may come again, and its default."""
    default = parameter.get_default(ctx, call=False)
    notes = ["required"] * parameter.required + ["repeatable"] * parameter.multiple
    if parameter.secondary_opts:
        notes.append(f"default: {(parameter.opts if default else parameter.secondary_opts)[0]}")
    elif parameter.show_default and not isinstance(default, bool) and default not in (None, ""):
        notes.append(f"default: {default}")
    return f"{parameter.help or ''} [{', '.join(notes)}]" if notes else parameter.help or ""
