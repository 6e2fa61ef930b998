"""The figure that the best checkpoint is chosen by: the same each time, in the log and on the disk."""

import json
import math

import pytest
import torch
from torch import nn

from gensys.core import Batch, Generative, Loss
from gensys.engine.checkpoint import best, newest, read_state
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.engine.validation import validation_loss
from gensys.errors import ConfigError
from gensys.noise import Stream

CPU = torch.device("cpu")


class Mean(Generative):
    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def loss(self, batch, noise, player):
        total = (self.mean - batch.x - noise.normal((2,), Stream.EPS)).square().sum(1).mean()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        raise NotImplementedError


def rows(first, count):
    ids = torch.arange(first, first + count)
    return Batch(torch.ones(count, 2), {}, ids)


def test_it_is_the_mean_over_rows_and_the_same_each_time():
    model = Mean().requires_grad_(False).eval()
    blocks = [rows(0, 64), rows(64, 10)]
    value = validation_loss(model, blocks, "fp32", CPU)
    assert value == validation_loss(model, blocks, "fp32", CPU)
    assert value == pytest.approx(validation_loss(model, [rows(0, 74)], "fp32", CPU), rel=1e-6)
    assert value == pytest.approx(4.0, abs=1.0)  # |0 - 1|^2 + 1 in each of two dimensions
    model.mean.fill_(1.0)
    assert validation_loss(model, blocks, "fp32", CPU) < value - 1.0
    with pytest.raises(ValueError, match="nothing to validate on"):
        validation_loss(model, [], "fp32", CPU)


def test_a_game_has_no_such_figure():
    class Game(Mean):
        players = ("critic", "generator")

    with pytest.raises(ConfigError, match="a game of critic, generator"):
        validation_loss(Game(), [rows(0, 4)], "fp32", CPU)


@pytest.mark.parametrize("worst", [False, True])
def test_scores_are_logged_and_kept_and_the_best_stays(tmp_path, worst):
    """Without `worst` the score falls, so the last is the best; with it the sixth is, far back."""
    asked = []

    def score(average):
        asked.append(average)
        value = float((average.mean.detach() - 1).square().sum())
        return -math.inf if len(asked) == 3 else -9.0 if worst and len(asked) == 6 else value

    settings = Settings(10, Budget(images=200), Optim(lr=0.02, warmup=0, decay=0.0), precision="fp32", save_every=0.0)
    state = train(Mean(), lambda step: rows(10 * step, 10), settings, tmp_path, score=score)
    root = tmp_path / "checkpoints"
    assert len(asked) == 21
    assert int(best(root).name) == (5 if worst else 20)
    assert sorted(int(d.name) for d in root.iterdir()) == ([5, 19, 20] if worst else [19, 20])
    assert read_state(newest(root)).score == state.score
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    judged = {line["step"]: line["val_loss"] for line in logged if "val_loss" in line}
    assert sorted(judged) == [1, *range(3, 21)]  # of step 2 it was not finite
    assert judged[20] == state.score
    assert "val_loss" not in [line for line in logged if "loss" in line][-1]
