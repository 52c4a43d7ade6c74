"""What the README, the documentation and the examples name exists, and what they show works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from difflm_core.api import DiffLM
from difflm_core.cli import build_app
from difflm_core.config_file import load_config
from difflm_core.data.schema import ColumnKind, Schema

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# Sources of commands: pages, and the docstrings and comments of examples.
TEXTS = [*PAGES, *SCRIPTS, *sorted((ROOT / "examples").glob("*.yaml"))]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(program):
    """Command lines of `program` in all texts, as (file, arguments)."""
    pattern = rf"^(?:#|    )? *({re.escape(program)} [^`\n]+)$"
    for path in TEXTS:
        for line in re.findall(pattern, path.read_text("utf-8"), re.MULTILINE):
            if "[" not in line and "URI" not in line:  # a usage line, not a command
                yield path.name, shlex.split(line, comments=True)[1:]


def cases(program):
    return [
        pytest.param(argv, id=f"{name}: {shlex.join(argv)}") for name, argv in commands(program)
    ]


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    dead = []
    for target in targets:
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        headings = []
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
        if not file.exists() or (anchor and anchor not in map(slug, headings)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("argv", cases("difflm"))
def test_every_difflm_command_is_understood(argv):
    command = typer.main.get_command(build_app())
    names = []
    while hasattr(command, "commands"):
        names.append(argv[0])
        command, argv = command.commands[argv[0]], argv[1:]
    if "config" in names and "docs" in names:
        argv = []
    context = command.make_context(names[-1], list(argv))
    load_config(None, context.params.get("overrides") or [])  # the settings exist
    for value in context.params.values():
        if isinstance(value, str) and value.startswith(("pipelines/", "examples/")):
            assert (ROOT / value).exists()


@pytest.mark.parametrize("argv", cases("python"))
def test_every_script_that_is_called_exists(argv):
    assert (ROOT / argv[0]).exists()


def test_every_make_target_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    called = {argv[0] for _, argv in commands("make")}
    assert {"demo", "test"} <= called <= set(targets)


def test_the_tree_of_the_readme_is_that_of_the_repository():
    (tree,) = [
        block for block in blocks(README.read_text("utf-8"), "text") if "difflm_core/" in block
    ]
    named = set()
    parent = Path()
    for line in tree.splitlines():
        name = re.match(r" *(\S+?)(?=,? )", line)[1]
        path = parent / name if line.startswith(" ") else Path(name)
        if not line.startswith(" "):
            parent = path
            names = [path, *map(Path, re.findall(r", ([A-Z]+(?:\.md)?)\b", line.split("   ")[0]))]
        else:
            names = [path]
        for each in names:
            assert (ROOT / each).exists(), each
            named.add(str(each))
    packages = {
        str(path.parent.relative_to(ROOT)) for path in (ROOT / "difflm_core").glob("*/__init__.py")
    }
    assert packages <= named


def test_the_python_of_the_readme_imports_what_exists():
    for block in blocks(README.read_text("utf-8"), "python"):
        compile(block, "README.md", "exec")
        for line in re.findall(r"^(?:from|import) .+$", block, re.MULTILINE):
            exec(line, {})
        for method in re.findall(r"\b(?:model|DiffLM)\.(\w+)\(", block):
            assert callable(getattr(DiffLM, method))


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=lambda p: p.name)
def test_every_decision_has_its_number_and_parts(page):
    text = page.read_text("utf-8")
    assert text.startswith(f"# {int(page.name[:4])}. ")
    for part in ("Context", "Decision", "Consequence"):
        assert f"\n**{part}.**" in text


def test_the_layers_of_the_architecture_are_modules():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (layers,) = [block for block in blocks(text, "text") if block.startswith("cli\n")]
    for line in layers.splitlines():
        for name in re.split(r"[,|] ?", line.split("   ")[0].replace(" ", "")):
            module = ROOT / "difflm_core" / name
            assert module.is_dir() or module.with_suffix(".py").exists(), name


def run_example(name, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    ).stdout


def test_the_schema_example_corrects_the_columns(tmp_path):
    path = tmp_path / "schema.json"
    shown = run_example("edit_schema.py", "--output", str(path))
    schema = Schema.load(path)
    assert (schema.column("age").minimum, schema.column("age").maximum) == (17, 90)
    assert schema.column("education-num").kind is ColumnKind.CATEGORICAL
    assert re.search(r"^education-num +categorical +stored as int64$", shown, re.MULTILINE)


@pytest.mark.slow
def test_the_table_example_learns_and_saves(tmp_path):
    path = tmp_path / "model"
    shown = run_example("custom_table.py", "--tokens=20000", "--steps=20", f"--output={path}")
    assert "The loaded model makes the same rows: True" in shown
    assert len(DiffLM.from_pretrained(path).sample(3)) == 3


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    rows = [f"{20 + i % 60},{'north' if i % 3 else 'south'},{i % 2}" for i in range(300)]
    (tmp_path / "customers.csv").write_text("\n".join(["age,region,churned", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    small = {"vae": {"max_tokens": 20_000, "batch_rows": 64}, "diffusion": {"num_steps": 20}}
    fit = DiffLM.fit
    monkeypatch.setattr(DiffLM, "fit", lambda *args, **kw: fit(*args, config=small, **kw))
    (block,) = blocks(README.read_text("utf-8"), "python")
    names = {}
    exec(block, names)
    assert list(names["synthetic"].columns) == ["age", "region", "churned"]
    assert len(names["synthetic"]) == 10_000
    assert len(DiffLM.from_pretrained("model/").sample(2)) == 2
