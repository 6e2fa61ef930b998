"""What a report says of samples, weights, metrics and commands that belong together, and of what is left out."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
from made_runs import EVIL, Page, make, store, whole

from gensys.data.store import ArraySpec, Store
from gensys.report import write_report


def read(folder):
    text = write_report(folder).read_text()
    return text, Page(text)


def test_the_commands_say_whose_weights_and_how_the_steps_were_computed(tmp_path):
    folder = whole(tmp_path / "run")
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"parts": 4, "damaged": 0.2}))
    shutil.rmtree(folder / "samples.zarr")
    for step, weights in ((10, b"old"), (20, b"new")):
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "average.safetensors").write_bytes(weights)
        (checkpoint / "COMMITTED").write_text("{}")
    digest = hashlib.sha256(b"old").hexdigest()
    store(folder / "samples.zarr", label=2, table="ab", weights=digest)
    _, page = read(folder)
    assert "--exact 4 --allow-damaged 0.2 --run runs/run" in page.words.replace("\\ ", "")
    assert "gensys sample runs/run --seeds 0:30 --seed 7 --label 2 --table FILE --checkpoint 10" in page.words
    assert "The samples are of the weights of step 10; the newest are of step 20." in page.words
    for path in folder.glob("checkpoints/*10/average.safetensors"):
        path.unlink()
    assert "weights that the run no longer holds" in read(folder)[1].words


def test_metrics_of_other_samples_are_told(tmp_path):
    folder = whole(tmp_path / "run")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    protocol = {"samples": 30, "sample ids": "0:30", "sample seed": 7, "weights": "average, sha256 " + "ab" * 8}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"protocol": protocol}))
    shutil.rmtree(folder / "samples.zarr")
    protocol |= {"data": "digits made by hand", "precision": "bf16", "steps": 5}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"protocol": protocol}))
    store(folder / "samples.zarr", weights="ab" * 32, knobs={"data": "mnist", "precision": "auto", "steps": 5})
    assert "The metrics are of other samples" not in read(folder)[1].words
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"protocol": protocol | {"sample seed": 8}}))
    assert "The metrics are of other samples than those in samples.zarr (sample seed)" in read(folder)[1].words
    (folder / "evaluation.json").write_text(
        json.dumps(evaluation | {"protocol": protocol | {"weights": "sha256 " + "cd" * 8}})
    )
    assert "(weights)" in read(folder)[1].words


def test_what_an_evaluation_left_out_is_told(tmp_path):
    folder = whole(tmp_path / "run")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"left_out": ["no floors: too few", EVIL]}))
    text, page = read(folder)
    assert f"Left out: no floors: too few; {EVIL}." in page.words
    assert "<script" not in text


def test_rows_of_a_table_are_not_missed_as_pictures_and_their_commands_are_there(tmp_path):
    folder = make(tmp_path / "run")
    document = json.loads((folder / "run.json").read_text())
    document["data"]["shape"] = [2]
    (folder / "run.json").write_text(json.dumps(document))
    for picture in (folder / "samples").iterdir():
        picture.unlink()
    made = Store.create(
        folder / "samples.zarr",
        {"x": ArraySpec((2,), "float32")},
        rows=4,
        shard=4,
        chunk=4,
        attributes={"seed": 0, "first": 0, "label": None},
    )
    made.commit(0, {"x": np.zeros((4, 2), np.float32)})
    made.seal({})
    scored = {"metrics": {}, "protocol": {}, "seconds": 1.0, "options": ["--bits", "9", "--predict", "a b"]}
    (folder / "evaluation.json").write_text(json.dumps(scored))
    _, page = read(folder)
    assert "draw the samples gensys sample runs/run --seeds 0:4 --seed 0" in page.words
    assert "score them gensys evaluate runs/run --bits 9 --predict 'a b'" in page.words
    assert "score the samples 1.0 s 4" in page.words
    assert "Not here" not in page.words


def test_rows_that_were_encoded_are_whole_numbers(tmp_path):
    folder = whole(tmp_path / "run")
    (folder / "costs.jsonl").write_text('{"verb": "encode", "rows": 5000, "seconds": 2.0, "workers": 0}\n')
    assert "encode 2.0 s 5,000 2500" in read(folder)[1].words.replace("2,500", "2500")


def test_remedies_can_be_read_by_a_shell(tmp_path):
    folder = make(tmp_path / "my run")
    (folder / "trajectory.png").write_bytes(b"torn")
    (folder / "reconstructions.png").write_bytes(b"torn")
    _, page = read(folder)
    assert "gensys sample 'runs/my run' --seeds 0:2000" in page.words
    assert page.words.count("gensys evaluate 'runs/my run'") == 2
    assert "rm 'runs/my run/trajectory.png' && gensys report 'runs/my run'" in page.words


def test_import_is_light():
    code = "import sys, gensys.report; print(sorted({'torch', 'numpy', 'PIL', 'jinja2', 'zarr'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
