"""`gensys evaluate`: the scores of a run or of a store of samples."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import Place
from gensys.commands.options import checkpoint_option, quiet_option, screen, workers_option
from gensys.commands.wording import facts, scores
from gensys.terminal import Answer, answering, quoted


@click.command()
@click.argument("target", type=Place(), metavar="RUN|STORE")
@click.option("--quick", is_flag=True, help="Only what the moments of gensys sample --moments give; reads no samples.")
@click.option(
    "--bits",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    help="Also the likelihood, in bits per dimension, of N held-out rows, where the model has one.",
)
@click.option(
    "--predict",
    metavar="COLUMN",
    help="Of a table: what models that are trained on samples predict of held-out rows.  [default: the last column]",
)
@click.option(
    "--metrics",
    metavar="NAMES",
    default="",
    help="Of images, with commas, some of fd, kid, prdc, inception_score, labels, memorisation, diversity, "
    "reconstruction.  [default: all]",
)
@click.option(
    "--features",
    metavar="EXTRACTOR",
    default="lenet",
    show_default=True,
    help="Whose features are compared: lenet, trained on the data; efficientnet-lite0[:SIDE[:WIDTH]]; inception:FILE, "
    "which gives FID; MODULE:FUNCTION, your own code.",
)
@click.option("--reference", metavar="DATA", help="Real images, as a recipe's data.  [default: those of the run]")
@click.option("--clip", metavar="DIR", help="A CLIP model in a folder of yours, as transformers saves it: clip_score.")
@click.option("--prompt", default="a photo of {}", show_default=True, help="The text of a class, {} = its name.")
@click.option("--aesthetic", metavar="FILE", help="A linear head on that model, safetensors: aesthetic.")
@workers_option()
@checkpoint_option
@quiet_option
@answering
def evaluate(
    target: Path,
    quick: bool,
    bits: int,
    predict: str | None,
    metrics: str,
    features: str,
    reference: str | None,
    clip: str | None,
    prompt: str,
    aesthetic: str | None,
    workers: int,
    checkpoint: str,
    quiet: bool,
) -> Answer:
    """Score a run or a store of samples.

    Metrics with their 95 % intervals, what real data score, and the protocol they were taken under.
    """
    from gensys.pipelines.evaluate import evaluate as pipeline
    from gensys.pipelines.evaluate_images import Asked

    shown, names = screen(quiet), tuple(name.strip() for name in metrics.split(",") if name.strip())
    asked = Asked(names, features, reference, workers, clip, aesthetic, prompt)
    result = pipeline(target, checkpoint=checkpoint, screen=shown, quick=quick, bits=bits, predict=predict, asked=asked)
    parts = [scores(result["metrics"]), facts(result["protocol"]), "\n".join(result["left_out"])]
    return Answer(result, "\n\n".join([part for part in parts if part] + [f"written: {quoted(Path(result['file']))}"]))
