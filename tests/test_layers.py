"""Who may import whom (docs/architecture.md, section 6), read from the source: lazy imports count as well."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 450  # lines in a file
FORBIDDEN = {"torchvision": "it is not a dependency", "pickle": "loading one runs code: use safetensors or JSON"}

# Every row may import the rows above it, and what is on its left in its own row.
LADDER = [
    ["errors", "durable", "native", "noise", "columns", "core", "trust"],
    ["kernels"],
    ["nn"],
    ["paths", "targets", "times", "couplings"],
    ["denoiser", "guidance"],
    ["bottlenecks", "objectives", "solvers", "bijections", "likelihood", "bound"],
    ["families"],
    ["editing", "straightness", "systems"],
]
BASE = set(LADDER[0])
TOOLS = {"pictures", "progress"}  # for those who talk to people, not for mathematics
FACE = {"terminal", "arguments", "catalogue", "doctor"}  # what the command line is made of
ALLOWED = {
    name: {n for above in LADDER[:i] for n in above} | set(row[:k])
    for i, row in enumerate(LADDER)
    for k, name in enumerate(row)
}
ALLOWED |= {
    **dict.fromkeys(TOOLS, BASE),
    "engine": BASE,  # a loop does not know what it trains
    "data": BASE,
    "evaluate": BASE | {"nn"},  # its own classifier
    "run": BASE | {"engine", "data"},
    "run_folder": BASE | {"run", "engine", "data"},
    **dict.fromkeys(FACE, BASE | TOOLS | FACE | {"kernels", "run", "run_folder", "data"}),
    "preview": BASE | TOOLS | {"run", "run_folder", "data"},
    "report": BASE | TOOLS | {"preview", "run", "run_folder", "data", "evaluate"},
    "domain": {"families", "data", "engine", "run", "run_folder"} | BASE,
    "teacher": {"denoiser", "targets", "families", "data", "domain", "run_folder"} | BASE,
    "needs": {"data", "domain", "run"} | BASE,
    "knobs": {name for row in LADDER for name in row} | {"run", "engine", "domain", "teacher", "needs"},
    "recipes": {name for row in LADDER for name in row}
    | {"run", "run_folder", "engine", "data", "domain", "knobs"}
    | {"teacher", "needs"},
    # recipes only through run; cli only when run as a program
    "pipelines": BASE
    | TOOLS
    | FACE
    | {
        "cli",
        "preview",
        "report",
        "run",
        "run_folder",
        "engine",
        "data",
        "evaluate",
        "editing",
        "straightness",
        "likelihood",
    },
    "__init__": set(),
    "__main__": {"cli"},
}
ALLOWED["bench"] = set(ALLOWED) - {"cli", "pipelines"}  # it measures everything
ALLOWED["commands"] = set(ALLOWED) - {"cli"}
ALLOWED["cli"] = set(ALLOWED) - {"cli"}  # on top
# pipelines are programs too (`python pipelines/train.py`), and no command is to wait for Ray before it needs it
PROGRAMS = ({"cli", "pipelines"}, {"commands", "pipelines"})


def imports(tree):
    """(dotted name, line, whether at the top of the module) of everything imported, at any depth."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports with their full names"
            # `from gensys import x` imports the module x, `from gensys.nn import x` something from nn
            names = [f"gensys.{alias.name}" for alias in node.names] if node.module == "gensys" else [node.module]
            yield from ((name, node.lineno, id(node) in top) for name in names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((arg.value, node.lineno, False) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def violations(layer, source):
    """What a file of `layer` may not do, as 'line: reason'."""
    tree = ast.parse(source)
    for name, line, top in imports(tree):
        package, _, rest = name.partition(".")
        if package == "ray" and layer != "pipelines":
            yield f"{line}: only pipelines/ imports ray"
        if package in FORBIDDEN:
            yield f"{line}: {package}: {FORBIDDEN[package]}"
        if package == "pipelines":
            yield f"{line}: write gensys.pipelines"
        if package == "gensys" and rest:
            other = rest.split(".")[0]
            if other not in ALLOWED[layer] | {layer}:
                yield f"{line}: {layer} may not import {other}"
            if {layer, other} in PROGRAMS and top:  # pipelines as programs: `python pipelines/train.py`
                yield f"{line}: {layer} and {other} import each other inside functions only"
    # weights_only runs nothing: the one way to read files of others that there are in no other format
    safe = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load" and id(node) not in safe:
            yield f"{node.lineno}: torch.load reads pickles: use safetensors, or weights_only=True for files of others"
    if len(source.splitlines()) > LONGEST:
        yield f"more than {LONGEST} lines: one concept, one file"


def layer_of(path):
    """The layer of a file: gensys/nn/dit.py -> nn, gensys/run.py -> run, pipelines/train.py -> pipelines."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "gensys" else parts[0]


FILES = sorted([*ROOT.glob("gensys/**/*.py"), *ROOT.glob("pipelines/**/*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers(path):
    layer = layer_of(path)
    assert layer in ALLOWED, f"{layer} has no place in LADDER or ALLOWED: decide what it may import"
    assert list(violations(layer, path.read_text())) == []


@pytest.mark.parametrize(
    ("layer", "source", "reason"),
    [
        ("engine", "def f():\n    import ray", "2: only pipelines/ imports ray"),
        ("run", "import importlib\nimportlib.import_module('ray.data')", "2: only pipelines/ imports ray"),
        ("engine", "from gensys.nn.dit import DiT", "1: engine may not import nn"),
        ("paths", "from gensys import targets", "1: paths may not import targets"),
        ("pipelines", "import gensys.recipes.digits", "1: pipelines may not import recipes"),
        ("cli", "from gensys.pipelines import train", "1: cli and pipelines import each other inside functions"),
        ("data", "import torchvision.transforms", "1: torchvision: it is not"),
        ("engine", "import torch\ntorch.load('x')", "2: torch.load reads pickles"),
        ("engine", "import torch\ntorch.load('x', weights_only=False)", "2: torch.load reads pickles"),
        ("engine", "import torch\nf = torch.load\nf('x', weights_only=True)", "2: torch.load reads pickles"),
        ("nn", "\n" * (LONGEST + 1), "more than"),
    ],
)
def test_violations_are_seen(layer, source, reason):
    (found,) = violations(layer, source)
    assert found.startswith(reason)


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(init.parent.relative_to(ROOT).parts) for init in FILES if init.name == "__init__.py"}
    assert set(listed) == {"gensys.pipelines" if name == "pipelines" else name for name in there}
