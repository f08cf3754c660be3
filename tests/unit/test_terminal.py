import io
import logging
import re
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

import asyndgan.cli
from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.terminal import LogToTerminal, Terminal
from asyndgan.texts import printable

HOSTILE = "a\x1b[2J\x1b]0;owned\x07b\u202ec\x9b1md\u2028e[bold]f[/bold]:smile:g"


def test_what_others_wrote_is_printed_in_printable_letters_wherever_it_stands():
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, color_system=None, width=200)
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE)
    console.print(HOSTILE, style="bold", soft_wrap=True)
    console.print(Text(HOSTILE), table)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(HOSTILE)
        bars.console.print(HOSTILE)
    said = out.getvalue()
    assert "owned" in said and "[bold]f[/bold]:smile:g" in said
    own = re.sub(r"\x1b\[(\?25[lh]|2K|1A)|\r", "", said)  # rich's: the cursor, and lines drawn anew
    assert printable(own) == own


def test_signs_that_a_terminal_lacks_have_letters_that_differ():
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="replace")
    Terminal(file=out).say("✗ a fault\n→ its remedy")
    out.seek(0)
    assert out.read().split() == ["x", "a", "fault", ">", "its", "remedy"]


def test_a_warning_of_a_log_is_printed_in_printable_letters(capsys):
    record = logging.makeLogRecord({"msg": "%s is passed over", "args": (HOSTILE,)})
    LogToTerminal().emit(record)
    assert "\x1b" not in (said := capsys.readouterr().err) and "is passed over" in said


def test_every_command_prints_by_the_one_console():
    for file in Path(asyndgan.cli.__file__).parent.glob("*.py"):
        if file.name != "terminal.py":
            code = file.read_text("utf-8")
            assert "rich.console" not in code and "rich.markup" not in code
            assert not re.search(r"TextColumn\(\"[^\"]*\"(?!, markup=False)", code)


@pytest.mark.parametrize(("count", "lines"), [(3, 4), (1860, 11)])
def test_without_a_terminal_what_is_counted_is_told_at_each_tenth(count, lines):
    out = io.StringIO()
    console = Terminal(file=out, width=80)
    with EvaluationDisplay(console, "paint cases", counted=True) as display:
        for done in range(count + 1):
            display.show("paint cases", done, count)
    said = out.getvalue().splitlines()
    assert len(said) == lines
    assert said[-1] == f"100 %  paint cases ({count} of {count})"
