"""The folder of a run, where everything that comes of it lives.

runs/NAME/  run.json  env.json  metrics.jsonl  tensorboard/  samples/  checkpoints/  snapshots/  ema/  report.html
            log.txt costs.jsonl
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gensys import durable, trust
from gensys.errors import ConfigError, RunError
from gensys.run import TRAINED, Spec, knobs_of, nearest, parse, read_recipe

if TYPE_CHECKING:  # a recipe is loaded only when it is used: `gensys list` must not wait for torch
    from gensys.core import Codec, Generative
    from gensys.data.latents import LatentSource
    from gensys.engine.posthoc import Combination

__all__ = ["COSTS", "RunFolder", "open_codec", "pinned", "unpinned"]

COSTS = "costs.jsonl"


_DIGITS = 12  # of a digest, for a person to read: 48 bits, and few runs save more than a thousand times


def open_codec(source: LatentSource) -> Codec:
    """The codec that made a latent store: its run's model, if its weights are still the ones that the store names."""
    from gensys.core import Codec

    made_by = source.store.attributes["codec"]
    folder = RunFolder(Path(made_by["run"]))
    model = folder.model(digest=made_by["weights"])
    if not isinstance(model, Codec):
        raise RunError(f"{str(folder.path)!r} is a run of {folder.spec().recipe!r}, which has no latent space")
    return model


def pinned(spec: Spec) -> Spec:
    """With the absolute folder and the newest weights of every run that a `Trained` knob names, FOLDER@DIGEST.

    Raises: RunError if there is no run, or if it has no checkpoint.
    """
    knobs = knobs_of(spec.recipe, spec.code).items()
    named = {name: str(spec.knobs[name]) for name, knob in knobs if TRAINED in get_args(knob.annotation)}
    return spec.with_knobs({name: _pinned(value) for name, value in named.items() if value})


def _pinned(value: str) -> str:
    folder, digest = unpinned(value)
    RunFolder(folder).document()  # a folder that is no run is told as such
    return f"{folder.resolve()}@{digest or RunFolder(folder).weights_digest()[:_DIGITS]}"


def unpinned(knob: str) -> tuple[Path, str | None]:
    """The folder that a `run.Trained` knob names, and the digest; None of one that names no weights."""
    folder, _, digest = knob.rpartition("@")
    known = len(digest) == _DIGITS and set(digest) <= set("0123456789abcdef") and folder
    return (Path(folder), digest) if known else (Path(knob).expanduser(), None)


@dataclass(frozen=True)
class RunFolder:
    """A run on the disk. run.json holds the Spec: it is written once, before anything else."""

    path: Path

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").exists()

    def create(self, spec: Spec, facts: Mapping[str, object]) -> None:
        """Write run.json: the spec, the code's hash for a recipe in a file, and facts such as the data's hash."""
        code = {"code_sha256": trust.fingerprint(spec.code)} if spec.code else {}
        parts = {"parts": spec.parts} if spec.parts else {}
        damaged = {} if spec.damaged is None else {"damaged": spec.damaged}
        document = {"recipe": spec.recipe, "knobs": dict(spec.knobs), **parts, **damaged, **code, **facts}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            durable.replace(self.path / "run.json", durable.with_digest(document))
            if spec.code:
                trust.trust(spec.code)
        except OSError as error:
            raise RunError(
                f"the run folder {str(self.path)!r} cannot be written: {error.strerror}; choose another with --run"
            ) from error

    def spent(self, verb: str, rows: int, seconds: float, workers: int) -> None:
        """Keep what a verb that used this run took, as a line of costs.jsonl, for a report. A folder that cannot be
        written is used all the same."""
        line = json.dumps({"verb": verb, "rows": rows, "seconds": round(seconds, 3), "workers": workers})
        with contextlib.suppress(OSError), open(self.path / COSTS, "a") as file:
            file.write(f"{line}\n")

    def document(self) -> dict[str, Any]:
        """run.json. Raises RunError if there is none, or if it is not what `create` writes."""
        path = self.path / "run.json"
        try:
            document = durable.without_digest(json.loads(path.read_text(encoding="utf-8")))
            if not isinstance(document["recipe"], str) or not isinstance(document["knobs"], dict):
                raise TypeError("'recipe' or 'knobs' is of another type")
            if not isinstance(document.setdefault("parts", 0), int):
                raise TypeError("'parts' is of another type")
            if not isinstance(document.setdefault("damaged", None), float | int | None):
                raise TypeError("'damaged' is of another type")
            if not all(isinstance(entry["row"], int) for entry in document.get("data", {}).get("quarantined", [])):
                raise TypeError("'quarantined' is of another type")
            if ":" in document["recipe"] and not isinstance(document["code_sha256"], str):
                raise TypeError("'code_sha256' is of another type")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(
                f"{str(self.path)!r} is no run: it has no run.json. `gensys list` shows the runs here"
            ) from error
        except OSError as error:
            raise RunError(f"{str(path)!r} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{str(path)!r} is damaged ({error!r}): train again with --fresh") from error
        return document

    def spec(self) -> Spec:
        """The Spec as it was trained. A recipe in a file must still be the file it was."""
        document = self.document()
        recipe, code = document["recipe"], ""
        if ":" in recipe:
            code = read_recipe(Path(recipe.rpartition(":")[0]))
            if trust.fingerprint(code) != document["code_sha256"]:
                raise RunError(
                    f"the recipe file {recipe!r} has changed since {str(self.path)!r} was started: put the old text "
                    f"back, or train anew with --fresh"
                )
            if not trust.is_trusted(code):
                raise RunError(
                    f"{str(self.path)!r} would execute the recipe file {recipe!r}, which you have not trained with. If "
                    f"you have read it and trust it: gensys train {recipe} --run {self.path}"
                )
        return Spec(recipe, document["knobs"], code, document["parts"], document["damaged"])

    def quarantined(self) -> list[int]:
        """The rows of the data that could not be read when the run was begun: it is not trained on them."""
        return [entry["row"] for entry in self.document().get("data", {}).get("quarantined", [])]

    def differences(self, spec: Spec) -> list[str]:
        """How a Spec differs from the one on the disk, one line each."""
        old = self.document()
        lines = [] if old["recipe"] == spec.recipe else [f"recipe: {old['recipe']} -> {spec.recipe}"]
        names = dict.fromkeys([*old["knobs"], *spec.knobs])
        absent = "(none)"
        for name in names:
            before, now = old["knobs"].get(name, absent), spec.knobs.get(name, absent)
            if before == now:
                continue
            lines.append(f"{name}: {before} -> {now}")
            if unpinned(str(before))[1] and unpinned(str(before))[0] == unpinned(str(now))[0]:
                lines[-1] += f" (it has been trained since; {name}={before} goes on with the weights that were used)"
        if old["parts"] != spec.parts:
            lines.append(f"parts of a step (--exact): {old['parts'] or absent} -> {spec.parts or absent}")
        code = trust.fingerprint(spec.code) if spec.code else None
        if old.get("code_sha256") != code and old["recipe"] == spec.recipe:
            lines.append("the text of the recipe's file")
        return lines

    def retuned(self, overrides: Mapping[str, str]) -> Spec:
        """The Spec for sampling: knobs that the recipe lets be changed after training may be given anew."""
        spec = self.spec()
        if not overrides:
            return spec
        knobs = knobs_of(spec.recipe, spec.code)
        allowed = sorted(spec.load().retune)
        for name in overrides:
            if name not in allowed:
                raise ConfigError(
                    f"knob {name!r} cannot be changed after training.{nearest(name, allowed)} These can: "
                    f"{', '.join(allowed) or 'none'}"
                )
        given = {name: parse(name, text, knobs[name].annotation) for name, text in overrides.items()}
        return pinned(replace(spec.with_knobs(given), given=tuple(given)))

    def weights(self, which: str = "newest", tell: Callable[[str], None] | None = None) -> Path:
        """The averaged weights of the newest whole checkpoint, of the best, or of the one of a step ("1200").

        "ema:0.12": those that `average` made of this width.

        tell: is given a line about each checkpoint that is damaged and passed over. Raises: RunError if there is none.
        """
        from gensys.engine.checkpoint import best, fault, newest, whole

        root = self.path / "checkpoints"
        if which.startswith("ema:"):
            return self._made(which.removeprefix("ema:"))
        if which.isdecimal():
            found = root / f"{int(which):08d}"
            if (wrong := fault(found)) is not None:
                there = ", ".join(str(int(directory.name)) for directory in whole(root)) or "none"
                why = wrong if found.exists() else "it is not there"
                raise RunError(f"{str(found)!r} cannot be used, as {why}: steps that can are {there}")
        elif which not in ("newest", "best"):
            raise ConfigError(f"'checkpoint' is newest, best, a step or ema:WIDTH, got {which!r}")
        else:
            found = (best if which == "best" else newest)(root, tell)
        if found is None and which == "best" and newest(root) is not None:
            raise RunError(
                f"no checkpoint of {str(self.path)!r} has a score to be the best by, as of a game or without held-out "
                f"rows: use the newest"
            )
        if found is None:
            raise RunError(f"{str(self.path)!r} has no whole checkpoint yet: run `gensys train` until it has saved one")
        return found / "average.safetensors"

    def average(self, width: float, step: int | None = None) -> Combination:
        """Make the average of this relative width from the run's snapshots; kept as ema/WIDTH.safetensors.

        Raises: RunError if this is no run; else see `engine.posthoc.reconstruct`.
        """
        from safetensors.torch import save

        from gensys.engine.posthoc import reconstruct

        self.document()  # a folder that is no run is told as such
        made = reconstruct(self.path / "snapshots", width, step)
        path = self._ema(width)
        with durable.explained(path, "saving an average"):
            path.parent.mkdir(exist_ok=True)
            durable.replace(path, save(made.tensors))
        return made

    def _ema(self, width: float) -> Path:
        return self.path / "ema" / f"{width:g}.safetensors"

    def _made(self, width: str) -> Path:
        try:
            path = self._ema(float(width))
        except ValueError:
            raise ConfigError(f"'checkpoint' ema:WIDTH has a number for its width, got {width!r}") from None
        if not path.exists():
            raise RunError(
                f"{str(self.path)!r} has no average of width {width}: `gensys ema {self.path} --width {width}` makes it"
            )
        return path

    def _weights_of(self, digest: str) -> Path:
        """The averaged weights that have this SHA-256, of which the first digits suffice.

        Raises: RunError if they are gone, as when training went on.
        """
        from gensys.engine.checkpoint import whole

        kept = (directory / "average.safetensors" for directory in whole(self.path / "checkpoints"))
        for path in (*kept, *sorted((self.path / "ema").glob("*.safetensors"))):
            if _sha256(path).startswith(digest):
                return path
        now = next((_sha256(d / "average.safetensors") for d in whole(self.path / "checkpoints")), "none")
        raise RunError(
            f"{str(self.path)!r} no longer holds the weights {digest[:12]}: training went on, or began anew, since "
            f"they were used, and the newest are {now[:12]}. Remove what was made from them (latents, "
            f"samples, the student of a teacher), and make it again"
        )

    def model(self, spec: Spec | None = None, digest: str | None = None) -> Generative:
        """The trained model: averaged weights, the newest or those of a `weights_digest`; evaluation mode.

        Raises RunError if it was trained on latents that were normalised otherwise than the store's are now.
        """
        from gensys.data.joined_latents import check_normalisation
        from gensys.engine.checkpoint import load_weights

        spec = spec or self.spec()
        run = spec.load()
        check_normalisation(str(self.path), run.source, self.document().get("data", {}).get("normalisation"))
        model = spec.model(run)
        load_weights(model, self._weights_of(digest) if digest else self.weights())
        return model.requires_grad_(False).eval()

    def weights_digest(self, which: str = "newest", tell: Callable[[str], None] | None = None) -> str:
        """SHA-256 of the averaged weights' file (see `weights`): what a store says it was made with."""
        return _sha256(self.weights(which, tell))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
