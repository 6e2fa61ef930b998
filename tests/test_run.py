"""Recipes, knobs and run folders: what is understood, and what is said when it is not."""

import json
import re
from typing import Literal

import pytest
import torch
from click.testing import CliRunner

from gensys.catalogue import describe
from gensys.cli import cli
from gensys.engine.checkpoint import State, checkpoint_tensors, save_checkpoint
from gensys.engine.posthoc import save_snapshot
from gensys.engine.settings import Budget
from gensys.errors import CheckpointError, ConfigError, RunError
from gensys.run import Spec, _paper, budget_of, knobs_of, nearest, parse, recipes, resolve
from gensys.run_folder import RunFolder

RECIPE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gensys.core import Batch, Generative, Loss
from gensys.engine.loop import Budget, Settings
from gensys.engine.optim import Optim
from gensys.run import Run


@dataclass
class Points:
    name: str = "points"
    about: str = "points"
    shape: tuple[int, ...] = (2,)
    classes: tuple[str, ...] = ()
    first_test: None = None

    def __len__(self):
        return 10

    def fingerprint(self):
        return "0"

    def batch(self, rows, noise):
        return Batch(torch.zeros(len(rows), 2), {}, rows)

    def origin(self, rows):
        return rows


class Model(Generative):
    def __init__(self, width, steps):
        super().__init__()
        self.layer, self.steps = nn.Linear(2, width), steps

    def loss(self, batch, noise, player):
        return Loss(self.layer(batch.x).square().mean())

    def sample(self, cond, noise):
        return torch.zeros(len(noise.ids), 2)


def mine(width: int = 3, wide: bool = False, lr: float = 0.1, note="", solver: Literal["heun", "euler"] = "heun",
         steps: int = 5) -> Run:
    """A recipe of the user's."""
    return Run(Points(), torch.arange(10), lambda: Model(width, steps), Settings(2, Budget(images=4)),
               frozenset({"steps", "solver"}))


@dataclass(frozen=True)
class Speed:
    """How fast."""

    lr: float = 0.1  # peak learning rate
    batch: int = 2  # rows a step


def grouped(width: int = 3, speed: Speed = Speed(lr=0.5), note: str = "") -> Run:
    """Knobs of its own and a group's."""
    settings = Settings(speed.batch, Budget(images=4), Optim(speed.lr))
    return Run(Points(), torch.arange(10), lambda: Model(width, 5), settings)


def ungrouped(speed: Speed) -> Run:
    raise OSError("never called")


def twice(lr: float = 0.1, speed: Speed = Speed()) -> Run:
    raise OSError("never called")


def needy(data: str, seed: int = 0) -> Run:
    raise OSError("never called")


def broken(width: int = 3) -> Run:
    return 1 / 0
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)
    return tmp_path / "mine.py"


def test_every_knob_has_its_default_or_what_was_said(mine):
    assert resolve("./mine.py:mine", {}).knobs == {
        "width": 3, "wide": False, "lr": 0.1, "note": "", "solver": "heun", "steps": 5,
    }  # fmt: skip
    knobs = resolve("mine.py:mine", {"width": "8", "wide": "yes", "lr": "1e-3", "note": "4", "solver": "euler"}).knobs
    assert knobs == {"width": 8, "wide": True, "lr": 1e-3, "note": "4", "solver": "euler", "steps": 5}
    assert [type(value) for value in knobs.values()] == [int, bool, float, str, str, int]


def test_a_group_of_knobs_is_its_fields(mine):
    spec = resolve("mine.py:grouped", {"batch": "4", "note": "x"})
    assert spec.knobs == {"width": 3, "lr": 0.5, "batch": 4, "note": "x"}
    settings = spec.load().settings
    assert (settings.batch, settings.optim.lr) == (4, 0.5)
    assert spec.with_knobs({"lr": 0.25}).load().settings.optim.lr == 0.25
    helps = {knob.name: knob.help for knob in describe("mine.py:grouped").knobs}
    assert helps == {"width": "", "lr": "peak learning rate", "batch": "rows a step", "note": ""}


@pytest.mark.parametrize(("name", "said"), [("ungrouped", "give it a default, speed = Speed"), ("twice", "two knobs")])
def test_a_group_that_cannot_be_read(mine, name, said):
    with pytest.raises(ConfigError, match=said):
        resolve(f"mine.py:{name}", {})


def test_a_recipe_names_its_paper():
    assert recipes()["latent_dit"].paper == "Ma et al., 2024, arXiv:2401.08740"
    assert (
        _paper('Help.\n\nHo and Lee, 2020, "A\nb", arXiv:2006.11239, section 4.')
        == "Ho and Lee, 2020, arXiv:2006.11239"
    )
    assert _paper('Karras et al., 2019, "Title", arXiv:1912.04958.') == "Karras et al., 2019, arXiv:1912.04958"
    assert _paper("Help without one.") == ""
    assert [name for name, entry in recipes().items() if not entry.paper] == []


def test_a_users_recipe_is_named_by_its_path_and_carries_its_text(mine, monkeypatch):
    spec = resolve("mine.py:mine", {"width": "4"})
    assert (spec.recipe, spec.code) == (f"{mine}:mine", RECIPE)
    mine.unlink()  # a worker elsewhere has no such file
    assert spec.model().layer.weight.shape == (4, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latent_dti", "Did you mean 'latent_dit'?"),
        ("kl_autoencodr", "Did you mean 'kl_autoencoder'?"),
        ("zzz", "`gensys list` shows all"),
        ("mine.py", "./file.py:function"),
        ("./nothing.py:mine", "cannot be read: No such file"),
        ("./mine.py:mien", "Did you mean 'mine'?"),
        ("./mine.py:", "has no function ''"),
        ("./mine.py:Points", "has no function 'Points'"),
        (".:mine", "cannot be read: Is a directory"),
    ],
)
def test_an_unknown_recipe(mine, name, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve(name, {})


def test_a_missing_function_lists_those_that_are_there(mine):
    with pytest.raises(ConfigError, match=r"It has: mine, grouped, .*, broken"):
        resolve("./mine.py:other", {})


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"widht": "3"}, "has no knob 'widht'. Did you mean 'width'? Its knobs: width, wide, lr"),
        ({"width": "3.5"}, "knob 'width' is a whole number, got '3.5'"),
        ({"width": ""}, "knob 'width' is a whole number, got ''"),
        ({"lr": "fast"}, "knob 'lr' is a number, got 'fast'"),
        ({"lr": "nan"}, "knob 'lr' is a number, got 'nan'"),
        ({"wide": "maybe"}, "knob 'wide' is true or false, got 'maybe'"),
        ({"solver": "huen"}, "knob 'solver' is one of heun, euler, got 'huen'. Did you mean 'heun'?"),
    ],
)
def test_a_knob_that_is_not_understood(mine, knobs, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve("./mine.py:mine", knobs)


def test_a_knob_without_default_must_be_given(mine):
    with pytest.raises(ConfigError, match="needs a value for data: give data=VALUE"):
        resolve("./mine.py:needy", {})
    assert resolve("./mine.py:needy", {"data": "x"}).knobs == {"data": "x", "seed": 0}


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes"])
def test_true(text):
    assert parse("k", text, bool) is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no"])
def test_false(text):
    assert parse("k", text, bool) is False


def test_a_literal_is_one_of_its_words():
    assert parse("k", "b", Literal["a", "b"]) == "b"
    with pytest.raises(ConfigError, match="one of a, b, got 'c'"):
        parse("k", "c", Literal["a", "b"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def mine(:\n", "SyntaxError"),
        ("import nothing_like_this\n", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("x = 'a\0b'\n", "null"),
        ("def mine(width: Wdith = 3): ...\n", "Wdith"),
    ],
)
def test_a_recipe_file_with_a_mistake_is_one_error(mine, text, said):
    mine.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(mine))) as caught:
        resolve("./mine.py:mine", {})
    assert said in str(caught.value)


def test_a_recipe_file_that_is_no_text_is_one_error(mine):
    mine.write_bytes(b"\xff\xfe\x00def")
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve("./mine.py:mine", {})


def test_a_recipe_that_fails_when_called_says_where(mine):
    line = RECIPE[: RECIPE.index("1 / 0")].count("\n") + 1
    with pytest.raises(ConfigError, match=f"line {line}: ZeroDivisionError"):
        resolve("./mine.py:broken", {}).load()


def test_the_built_in_recipes_are_listed_with_their_help():
    found = recipes()
    assert {"kl_autoencoder", "latent_dit"} <= set(found)
    assert all(entry.help for entry in found.values())
    assert list(found) == sorted(found)
    assert all(knobs_of(name) for name in found)


def test_nearest():
    assert nearest("widht", ["depth", "width"]) == " Did you mean 'width'?"
    assert nearest("zzz", ["depth", "width"]) == ""


@pytest.mark.parametrize(
    ("text", "seconds", "images"),
    [
        ("90s", 90, None), ("10m", 600, None), ("2h", 7200, None), ("0.5s", 0.5, None), ("1.5m", 90, None),
        ("64000", None, 64_000), ("500k", None, 500_000), ("2M", None, 2_000_000), ("1G", None, 10**9),
        ("1.5k", None, 1500), ("1e3", None, 1000), ("1", None, 1), ("0.2", None, 1),
    ],
)  # fmt: skip
def test_budgets(text, seconds, images):
    budget = budget_of(text)
    assert (budget.seconds, budget.images, budget.cpu) == (seconds, images, False)
    if seconds:
        assert budget_of(f"cpu:{text}") == Budget(seconds=seconds, cpu=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-5", "0s", "-1h", "ten", "10x", "10mm", "s", "k", "nan", "inf", "infs", "infk", "1e308G"),
        *("cpu:", "cpu:5k", "cpu:64000", "cpu:0s", "cpu 5s"),
    ],
)
def test_budgets_that_are_none(text):
    with pytest.raises(ConfigError, match="'budget' is a time"):
        budget_of(text)


def folder(tmp_path, spec=None, facts=None):
    made = RunFolder(tmp_path / "run")
    made.create(spec or resolve("./mine.py:mine", {"width": "4"}), facts or {})
    return made


def test_a_run_folder_remembers_its_spec(mine, tmp_path):
    spec = resolve("./mine.py:mine", {"width": "4"})
    assert not RunFolder(tmp_path / "run").exists
    made = folder(tmp_path, spec, {"data": {"name": "points"}})
    assert made.exists
    assert made.spec() == spec
    assert made.document()["data"] == {"name": "points"}
    assert made.differences(spec) == []
    assert [p.name for p in made.path.iterdir()] == ["run.json"]


def test_differences_are_told_one_by_one(mine, tmp_path):
    made = folder(tmp_path)
    spec = resolve("./mine.py:mine", {"width": "5", "lr": "0.2"})
    assert made.differences(spec) == ["width: 4 -> 5", "lr: 0.1 -> 0.2"]
    other = Spec("latent_dit", {"width": 4, "depth": 3})
    lines = made.differences(other)
    assert lines[0] == f"recipe: {mine}:mine -> latent_dit"
    assert "depth: (none) -> 3" in lines
    assert "lr: 0.1 -> (none)" in lines


def test_a_recipe_file_that_changed_is_told(mine, tmp_path):
    made = folder(tmp_path)
    mine.write_text(RECIPE + "\n# a comment\n")
    assert made.differences(resolve("./mine.py:mine", {"width": "4"})) == ["the text of the recipe's file"]
    with pytest.raises(RunError, match=r"has changed since .*--fresh"):
        made.spec()
    mine.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        made.spec()


def test_some_knobs_may_be_given_anew_after_training(mine, tmp_path):
    made = folder(tmp_path)
    assert made.retuned({}) == made.spec()
    assert made.retuned({"steps": "9", "solver": "euler"}).knobs["steps"] == 9
    assert made.spec().knobs["steps"] == 5
    with pytest.raises(ConfigError, match="'width' cannot be changed after training"):
        made.retuned({"width": "9"})
    with pytest.raises(ConfigError, match=r"Did you mean 'steps'\? These can: solver, steps"):
        made.retuned({"stesp": "9"})
    with pytest.raises(ConfigError, match="'steps' is a whole number"):
        made.retuned({"steps": "many"})


def test_the_trained_model_holds_the_average(mine, tmp_path):
    made = folder(tmp_path)
    with pytest.raises(RunError, match="no whole checkpoint yet"):
        made.model()
    weights, average = made.spec().model(), made.spec().model()
    save_checkpoint(made.path / "checkpoints", checkpoint_tensors(weights, average, {}), State(1), 2)
    model = made.model()
    assert torch.equal(model.layer.weight, average.layer.weight)
    assert not torch.equal(model.layer.weight, weights.layer.weight)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert len(made.weights_digest()) == 64
    with pytest.raises(CheckpointError, match="does not fit the model of this recipe"):
        made.model(made.spec().with_knobs({"width": 5}))


def test_an_average_that_was_made_afterwards_is_a_checkpoint_to_sample_from(mine, tmp_path):
    made = folder(tmp_path)
    ask = lambda *words: CliRunner().invoke(cli, ["ema", str(made.path), *words])  # noqa: E731
    assert "there are no snapshots in" in " ".join(ask("--width", "0.07").output.split())
    with pytest.raises(RunError, match=r"no average of width 0.07: `gensys ema .* --width 0.07` makes it"):
        made.weights("ema:0.07")
    with pytest.raises(ConfigError, match="has a number for its width, got 'wide'"):
        made.weights("ema:wide")
    weights = made.spec().model().state_dict()
    for step in (50, 100):
        save_snapshot(made.path / "snapshots", step, dict.fromkeys((0.05, 0.1), weights))
    assert "'width' must lie in" in " ".join(ask("--width", "2").output.split())
    told = json.loads(ask("--width", "0.07", "--json").stdout)
    assert (told["step"], told["snapshots"], told["weights"]) == (100, 4, str(made.weights("ema:0.07")))
    model = made.model(digest=made.weights_digest("ema:0.07"))
    torch.testing.assert_close(dict(model.state_dict()), dict(weights))  # of averages that are all the same
    with pytest.raises(RunError, match="is no run"):
        RunFolder(tmp_path / "nothing").average(0.07)


def test_no_run_is_told(tmp_path):
    with pytest.raises(RunError, match=r"is no run: it has no run\.json"):
        RunFolder(tmp_path / "nothing").document()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is no run"):
        RunFolder(tmp_path / "file").document()


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b"3", b"\xff\xfe\x00", b'{"recipe": "latent_dit"}', b'{"knobs": {}}',
     b'{"recipe": 3, "knobs": {}}', b'{"recipe": "latent_dit", "knobs": []}'],
)  # fmt: skip
def test_a_damaged_run_json_is_told(tmp_path, text):
    made = RunFolder(tmp_path)
    (tmp_path / "run.json").write_bytes(text)
    for ask in (made.spec, lambda: made.differences(Spec("latent_dit", {})), lambda: made.retuned({"steps": "1"})):
        with pytest.raises(RunError, match=r"run\.json.* is damaged.*--fresh"):
            ask()


def test_a_run_json_without_the_hash_of_its_recipe_file_is_damaged(mine, tmp_path):
    made = folder(tmp_path)
    document = made.document()
    del document["code_sha256"]
    (made.path / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="is damaged"):
        made.spec()


def test_a_folder_that_cannot_be_written_is_told(mine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written: .*choose another with --run"):
        RunFolder(tmp_path / "file" / "run").create(resolve("./mine.py:mine", {}), {})
