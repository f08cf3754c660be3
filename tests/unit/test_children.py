"""Processes that are started: by one module, and importing nothing from where they are."""

import ast
from pathlib import Path

import pytest

import asyndgan
from asyndgan import children

SOURCE = Path(asyndgan.__file__).parent
STARTERS = {"Popen", "run", "call", "check_call", "check_output", "system", "popen", "Process"}
MODULES = {"subprocess", "os", "multiprocessing", "pty"}


def starts(path: Path) -> list[str]:
    """Calls of a source file that start a process."""
    text = path.read_text("utf-8")
    tree = ast.parse(text if any(f"{module}." in text for module in MODULES) else "")
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        f"{path.name}: {call.value.id}.{call.attr}"
        for call in calls
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name)
        if call.value.id in MODULES
        if call.attr in STARTERS or call.attr.startswith(("spawn", "posix_spawn", "exec", "fork"))
    ]


def test_one_module_starts_all_processes():
    found = {path.name for path in SOURCE.rglob("*.py") if starts(path)}
    assert found == {"children.py"}


@pytest.mark.parametrize("paths", ["", ":", "{kept}:.:strange"], ids=range(3))
def test_a_process_imports_nothing_from_its_folder(paths, tmp_path, monkeypatch):
    kept, strange = tmp_path / "kept", tmp_path / "strange"
    kept.mkdir()
    strange.mkdir()
    for folder in (strange, tmp_path):
        for name in ("sitecustomize.py", "torch.py", "nvflare.py", "calendar.py"):
            (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", paths.format(kept=kept))
    # `calendar` runs as a module, and one that it starts itself would import from here, too.
    child = children.start("calendar", "2026", cwd=tmp_path)
    assert child.wait(60) == 0
    assert not (tmp_path / "ran").exists()
    known = children.environment({"MALLOC_ARENA_MAX": "4"})
    assert known["PYTHONPATH"] == (str(kept) if "kept" in paths else "")
    assert (known["PYTHONSAFEPATH"], known["MALLOC_ARENA_MAX"]) == ("1", "4")


def test_a_process_inherits_no_variable_that_is_not_named(monkeypatch):
    strange = ("PYTHONHOME", "LD_PRELOAD", "HOMEBREW_TOKEN", "NVIDIA_API_KEY", "LANGCHAIN_KEY")
    needed = ("ASYNDGAN_SOCKETS", "LC_ALL", "HTTPS_PROXY", "no_proxy", "ATEN_CPU_CAPABILITY")
    for name in (*strange, *needed):
        monkeypatch.setenv(name, "C")
    known = children.environment()
    assert not known.keys() & {*strange}
    assert {"PATH", "HOME", *needed} <= known.keys()
