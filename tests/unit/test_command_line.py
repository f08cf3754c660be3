"""Help, start-up and exit codes of every command; `docs/commands.md` is generated from them.

After a change of a command or its help: `python tests/unit/test_command_line.py`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from asyndgan.cli import EXIT_CODES, app
from asyndgan.cli.help import parts_of
from asyndgan.cli.study import TAKEN
from asyndgan.demo.phantoms import write_phantoms
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.runs import load_recipe
from asyndgan.runs.order import Order
from commands import check_named, named_in
from commands import command as typed
from obeying import texts_of

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
MAIN = "import sys; from asyndgan.cli import main"
WITHOUT_JSON = {
    "asyndgan demo": "its evaluation.json and audit.json hold what it prints",
    "asyndgan init": "its recipe.toml holds the plan with the reasons",
    "asyndgan train": "the run's recipe.toml holds the plan",
}
"""Commands that print a table and have no `--json`, and where else scripts find what it tells."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group of commands with its name, the top command first."""

    def walk(name: str, found: Any, context: Any) -> Iterator[tuple[str, Any]]:
        yield name, found
        for word in getattr(found, "commands", {}):
            _, below, _ = found.resolve_command(context, [word])
            yield from walk(f"{name} {word}", below, context)

    top = typer.main.get_command(app)
    yield from walk("asyndgan", top, top.make_context("asyndgan", ["check"]))


def help_of(name: str, option: str = "--help") -> str:
    words = [*name.split()[1:], option]
    shown = CliRunner().invoke(app, words, prog_name="asyndgan", env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    return shown.output


def page() -> str:
    """The command reference."""
    elsewhere = "\n".join(f"- `{name}`: {where}." for name, where in WITHOUT_JSON.items())
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    text = f"""# Commands

This page is generated from the commands. `asyndgan COMMAND -h` prints the same text.
`asyndgan --install-completion` installs completion for your shell.

## Exit codes

| code | meaning |
|---|---|
{codes}

## JSON for scripts

Commands that print a table print JSON on standard output with `--json`, and all else on standard
error. `check` gives each finding its kind, folder, cases and remedy. Without the option:

{elsewhere}
"""
    for name, _ in commands():
        text += f"\n## {name}\n\n```text\n{help_of(name).rstrip()}\n```\n"
    return text


def run(*words: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, which prints last whether it imported torch."""
    code = f"{MAIN}\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, errors="replace", check=False, timeout=120,
        env={**os.environ, "COLUMNS": "80", **environment},
    )  # fmt: skip


OPEN = {
    "federation add {} NAME.csr", "federation init NEW --host HOST",
    "federation init {} --host HOST",
    "federation remove {} SITE", "site approve SITE {}",
    "site init {} FILE", "site init {} KIT", "site request NAME",
}  # fmt: skip
"""Commands that the source names with capitals for what the program cannot know."""


def test_each_command_of_a_federation_that_the_source_names_is_whole_or_known_to_be_open():
    texts = texts_of(
        "cli/federation.py", "cli/site.py", "engines/**/*.py", "reports/*.py", "runs/*.py"
    )
    named = {line for _, text in texts for line in named_in(text)}
    named -= {line for line in named if line.split()[1] == "{}"}  # seen where it is printed
    assert len(named) > 20
    for line in sorted(named):
        check_named(f"asyndgan {line}")
    assert {line for line in named if re.search(r"\b[A-Z]{2}", line)} == OPEN


def test_the_command_reference_is_generated_from_the_commands():
    assert PAGE.read_text("utf-8") == page()


def test_every_help_begins_with_an_example_and_fits_80_columns():
    for name, _ in commands():
        shown = help_of(name)
        assert shown.startswith(f"Example:\n  {'asyndgan' if name == 'asyndgan' else name}"), shown
        assert max(map(len, shown.splitlines())) <= 80, shown
        assert shown == help_of(name, "-h")


def test_every_example_gives_what_the_command_requires_and_no_unknown_option():
    top = typer.main.get_command(app)
    seen = 0
    for _, command in commands():
        lines = "\n".join(parts_of(command.help)[0]).replace("\\\n", " ").splitlines()
        studied = " init " in lines[0]  # it writes what the commands below it take
        for line in lines:
            words = shlex.split(line.partition(" > ")[0])
            assert words.pop(0) == "asyndgan"
            found, context = top, top.make_context("asyndgan", ["check"])
            while hasattr(found, "commands"):
                _, found, words = found.resolve_command(context, words)
            context = typer.Context(found, info_name=found.name)
            given, rest, _ = found.make_parser(context).parse_args(list(words))
            assert not rest, line
            taken = TAKEN.get(found.name, "").split() if studied else []
            for parameter in found.params:
                found_so = given.get(parameter.name) or parameter.name in taken
                assert found_so or not parameter.required, (line, parameter.name)
            seen += 1
    assert seen > 30


def test_help_of_no_command_imports_torch():
    code = f"""{MAIN}, COMMANDS, app
from typer.testing import CliRunner
for name in COMMANDS:
    assert CliRunner().invoke(app, [name, "-h"]).exit_code == 0
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("folder")
    write_phantoms(made, size=32, patients_scale=0.1)
    (made / "policy.toml").write_text(run("policy", "show").stdout)
    (made / "ledger.jsonl").write_text("")
    kits = [made / "kits" / name for name in ("north", "south")]
    federation = federation_here(made / "fed", *kits)
    Order.submit(federation, "one", load_recipe("demo"), ())
    return made


@pytest.mark.parametrize(
    "words",
    [
        "policy check {}/policy.toml default --patients 40",
        "check {}/north {}/south --test {}/test", "federation status {}/fed --json",
    ],
)  # fmt: skip
def test_a_command_that_does_not_compute_imports_no_torch(words, folder):
    done = run(*words.replace("{}", str(folder)).split())
    assert (done.returncode, done.stderr) == (0, "False\n")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["trian"], 2, "Did you mean 'train'?"),
        (["train", "default"], 2, "Missing option '--out'"),
        (["recipe", "show", "defualt"], 1, "Did you mean 'default'?"),
    ],
)
def test_what_is_mistyped_is_answered_with_the_nearest_name(words, code, says):
    done = run(*words)
    assert done.returncode == code and code in EXIT_CODES and says in done.stderr


def test_findings_are_told_as_json_by_kind_folder_and_cases(folder, tmp_path):
    shutil.copytree(folder / "north", faulty := tmp_path / "north")
    paths = sorted((faulty / "imagesTr").iterdir())
    first, last = paths[0].name[:-9], paths[-1].name[:-9]
    for path in paths:
        if path.name.startswith(last):
            shutil.copy(path.with_name(path.name.replace(last, first)), path)
    words = ["--set", "image.intensity.default.high=90000"]
    (told,) = json.loads(run("check", str(faulty), "--json", *words).stdout)["folders"]
    found = {one["kind"]: one for one in told["findings"]}
    assert found.keys() == {"duplicates", "intensities"}
    assert (found["duplicates"]["cases"], found["duplicates"]["fault"]) == ([first, last], False)
    assert found["intensities"]["fault"] and found["intensities"]["folder"] == str(faulty)
    assert "asyndgan plan" in found["intensities"]["remedy"]


def test_what_a_table_tells_is_told_as_json_alone(folder, tmp_path):
    def told(*words):
        return json.loads(typed(*words, "--json").stdout)

    drawn = told("phantoms", tmp_path / "data", "--size", 32, "--patients", 0.1)
    assert drawn["north"]["folder"] == str(tmp_path / "data" / "north")
    assert drawn["north"]["cases"] == len([*(tmp_path / "data/north/labelsTr").iterdir()])
    seen = told("fingerprint", folder / "north", "--out", tmp_path / "north.json")
    assert seen == json.loads((tmp_path / "north.json").read_text())
    planned = told("plan", tmp_path / "north.json", "--out", tmp_path / "recipe.toml")
    assert planned["recipe"] == load_recipe(str(tmp_path / "recipe.toml")).to_tables()
    assert all(reason in (tmp_path / "recipe.toml").read_text().replace("\n# ", " ")
               for reason in planned["reasons"].values())  # fmt: skip
    (kept,) = told("store", "show", folder / "north").values()
    assert sum(kept.values()) > 1000


def test_a_policys_verdict_is_told_as_json_and_by_the_exit_code(folder):
    words = ("policy", "check", str(folder / "policy.toml"), "default", "--json", "--patients")
    assert json.loads(run(*words, "1000").stdout)["refused"] == []
    done = run(*words, "1")
    assert done.returncode == 1 and json.loads(done.stdout)["refused"]


def test_the_shell_completes_commands_options_and_recipes():
    for line, wanted in (("asyndgan train --eng", "--engine"), ("asyndgan train de", "demo")):
        done = subprocess.run(
            [sys.executable, "-c", f"{MAIN}; main()"],
            capture_output=True, text=True, check=False,
            env={
                **os.environ, "_ASYNDGAN_COMPLETE": "complete_bash", "COMP_WORDS": line,
                "COMP_CWORD": str(len(line.split()) - 1),
            },
        )  # fmt: skip
        assert wanted in re.split(r"\s+", done.stdout), (line, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ("fingerprint", "~/north", "--out=~/new/north.json"),
        ("train", "--site=a=~/nobody", "--out=~/new/run"),
    ],
)
def test_a_path_may_begin_with_the_users_folder_wherever_a_shell_leaves_it(
    words, folder, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for part in ("north", "west"):
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / part).symlink_to(folder / part)
    home = tmp_path / "home"
    home.joinpath("new").mkdir()
    done = CliRunner().invoke(app, words, env={"HOME": str(home), "COLUMNS": "200"})
    assert "~" not in done.output + str(done.exception), done.output
    assert not (tmp_path / "~").exists()
    if "new" in str(words) and "nobody" not in str(words):
        assert [*home.joinpath("new").iterdir()], done.output


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")


def test_letters_that_a_stream_lacks_are_replaced(folder, tmp_path):
    shutil.copytree(folder / "north", faulty := tmp_path / "Łódź")
    next((faulty / "imagesTr").iterdir()).unlink()
    for words in (
        ("check", str(faulty).encode() + b"\xe4"),
        ("train", "default", "--site", f"x={faulty}-日本", "--out", str(tmp_path / "run")),
    ):
        done = run(*words, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr and "UnicodeEncodeError" not in done.stderr
        assert "?" in done.stdout + done.stderr
