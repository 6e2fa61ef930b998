"""Straighten a flow: `gensys reflow RUN`.

A round draws samples of a run into a store, NEW/pairs.zarr, and trains the run NEW on them, each with the noise that it
was drawn from, beginning with the weights that drew them. Sampling and training are those of the other verbs, so what
was drawn and trained is kept whenever a round is stopped, and the same command goes on. What a round was good for is
measured at its end and kept in NEW/reflow.json.

The noise of a pair is stored nowhere: it is a function of (seed, number of the sample), see gensys/data/pairs.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from gensys.pipelines.pool import Pool, device
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train

from gensys import durable
from gensys.core import Generative
from gensys.data.store import Store
from gensys.engine.checkpoint import State, checkpoint_tensors, newest, save_checkpoint
from gensys.errors import ConfigError
from gensys.noise import Noise
from gensys.preview import labels_for
from gensys.progress import Screen
from gensys.run import Spec, resolve
from gensys.run_folder import RunFolder
from gensys.straightness import flow_of, require_pairs, straightness

__all__ = ["RECIPE", "measure", "reflow"]

RECIPE = "rectified_flow"
_SEEDS = 1 << 40  # pairs are drawn with seeds from here on: no sample that anyone draws begins at noise trained on
_MEASURED = 1 << 47  # the first of the ids that are measured, far from those of any pair, sample or preview
_ROWS, _STEPS = 256, 50  # rows that are measured, and steps of the midpoint rule for each, of two network calls
_TOLERANCE = 1e-4  # of dopri5; float32 has 1e-5 at best, where its rounding costs steps


def reflow(
    folder: RunFolder,
    out: RunFolder,
    *,
    pairs: int,
    rounds: int = 1,
    seed: int = 0,
    overrides: Mapping[str, str],
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    pool: Pool | None = None,
) -> list[dict[str, Any]]:
    """Train `rounds` runs, each on the samples of the one before; returns what is in each one's reflow.json.

    out: the first of them; others are out-2, out-3, ... pairs: how many samples each is trained on. seed: another gives
    other pairs. overrides: knobs of sampling say how pairs are drawn, all others how the new runs are trained; what is
    not given is as it was for the run before, but that new runs sample without guidance, which the pairs have in them.

    Raises: ConfigError if the run is no flow along straight lines, or of a recipe whose network rectified_flow cannot
    build.
    """
    if pairs < 1:
        raise ConfigError(f"'pairs' must be at least 1, got {pairs}")
    if rounds < 1:
        raise ConfigError(f"'rounds' must be at least 1, got {rounds}")
    done: list[dict[str, Any]] = []
    for k in range(1, rounds + 1):
        new = out if k == 1 else RunFolder(out.path.with_name(f"{out.path.name}-{k}"))
        before = done[-1]["after"] if done else None
        done.append(
            _round(folder, new, pairs, _SEEDS + seed + k - 1, overrides, workers, screen, checkpoint, pool, before)
        )
        folder, checkpoint = new, "newest"
    return done


def _round(
    folder: RunFolder,
    new: RunFolder,
    pairs: int,
    seed: int,
    overrides: Mapping[str, str],
    workers: int,
    screen: Screen,
    checkpoint: str,
    pool: Pool | None,
    before: dict[str, float] | None,
) -> dict[str, Any]:
    """One round. before: what was measured of `folder`, if it was."""
    retune = folder.spec().load().retune
    place = (new.path / "pairs.zarr").resolve()
    if new.exists and new.document()["knobs"].get("pairs") != str(place):
        raise ConfigError(f"{str(new.path)!r} is another run, and no round of this one: choose another --out")
    drawing = {name: text for name, text in overrides.items() if name in retune}
    spec = _next(folder, drawing, {name: text for name, text in overrides.items() if name not in retune})
    store = sample(
        folder,
        place,
        ids=range(pairs),
        seed=seed,
        label=None,
        overrides=drawing,
        shard=None,
        workers=workers,
        screen=screen,
        checkpoint=checkpoint,
        pool=pool,
        pairs=True,
    )
    spec = spec.with_knobs({"pairs": str(place)})
    _begin(new, folder, store, spec)
    state = train(new, spec, workers=workers, fresh=False, screen=screen)
    drawn_by = folder.spec().with_knobs(store.attributes["knobs"])
    document = {
        "from": str(folder.path.resolve()),
        "run": str(new.path.resolve()),
        "pairs": {"store": str(place), "rows": len(store), "seed": seed, "weights": store.attributes["weights"]},
        "steps": state.step,
        "measured": {"rows": _ROWS, "midpoint_steps": _STEPS, "tolerance": _TOLERANCE},
        "before": before
        or measure(folder.model(drawn_by, store.attributes["weights"]), len(store.attributes["classes"])),
        "after": measure(new.model(), len(store.attributes["classes"])),
    }
    durable.replace(new.path / "reflow.json", (json.dumps(document, indent=2) + "\n").encode())
    return document


def _next(folder: RunFolder, drawing: Mapping[str, str], training: Mapping[str, str]) -> Spec:
    """The Spec of the next round, without its pairs: refused here, before anything is drawn, if it does not fit."""
    old, model = folder.spec(), folder.retuned(drawing).model()
    try:
        require_pairs(flow_of(model))
    except ValueError as error:
        raise ConfigError(f"{str(folder.path)!r} cannot be straightened: {error}") from error
    wanted = resolve(RECIPE, training)
    kept = {name: value for name, value in old.knobs.items() if name in wanted.knobs}
    kept |= {"pairs": "", "guidance": 1.0, "dropout": 0.0}  # nothing is guided, so nothing need be unlearned
    spec = replace(wanted, knobs={**wanted.knobs, **kept, **{name: wanted.knobs[name] for name in training}})
    theirs, ours = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (model, spec.model()))
    if theirs != ours:
        name = min(theirs.items() ^ ours.items())[0]
        raise ConfigError(
            f"{str(folder.path)!r} is a run of {old.recipe!r}, and its weights do not fit {RECIPE!r}: {name} is "
            f"{theirs.get(name, 'not there')}, and should be {ours.get(name, 'not there')}. Leave the knobs of the "
            "network as they are; recipes that can go on are flow_matching, ot_cfm and rectified_flow"
        )
    return spec


def _begin(new: RunFolder, folder: RunFolder, store: Store, spec: Spec) -> None:
    """Give a new run its first checkpoint, of step 0: the averaged weights that drew the pairs. Training resumes it.
    All averages that it is to keep begin with them."""
    root = new.path / "checkpoints"
    if newest(root) is None:
        model, settings = folder.model(digest=store.attributes["weights"]), spec.load().settings
        profiles = dict.fromkeys(settings.profiles if settings.snapshots else (), model)
        save_checkpoint(root, checkpoint_tensors(model, model, {}, profiles=profiles), State(), keep=1)


def measure(model: Generative, classes: int) -> dict[str, float]:
    """The means over rows that nobody has seen; squares are summed over the elements of a datum, weights in float32.

    straightness, transport_cost, path_energy: see gensys/straightness.py. relative_straightness: S over the cost.
    one_step: the root mean square, of an element, by which a single step of Euler misses. evaluations: network calls of
    dopri5 at rtol = atol = 1e-4.
    """
    place = device()
    model = model.to(place)
    ids = torch.arange(_ROWS, device=place)
    cond, noise = labels_for(ids, classes), Noise(0, _MEASURED + ids)
    found = straightness(model, cond, noise, steps=_STEPS, rtol=_TOLERANCE, atol=_TOLERANCE)
    bends, cost = found.straightness.mean().item(), found.cost.mean().item()
    size = torch.Size(flow_of(model).shape).numel()
    return {
        "straightness": bends,
        "relative_straightness": bends / cost,
        "transport_cost": cost,
        "path_energy": found.energy.mean().item(),
        "one_step": (found.one_step.mean().item() / size) ** 0.5,
        "evaluations": found.evaluations.mean().item(),
    }


if __name__ == "__main__":
    from gensys.cli import main

    main("reflow")
