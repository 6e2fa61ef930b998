"""Parquet tables of numbers and categories: what the same table of text is, and what only Parquet can hold."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gensys.columns import Column
from gensys.data.sources import open_source
from gensys.errors import DataError
from gensys.noise import Noise

CLINIC = {
    "age": [51, 63, 40, 33],
    "dose": [0.5, 1.25, 2.0, 0.5],
    "sex": ["m", "f", "f", "m"],
    "label": ["ill", "well", None, "ill"],
}


def write(path, values):
    pq.write_table(pa.table(values), path)
    return path


def test_it_is_the_table_that_text_would_be(tmp_path):
    found = open_source(write(tmp_path / "clinic.parquet", CLINIC))
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in zip(*CLINIC.values(), strict=True)]
    (tmp_path / "clinic.csv").write_text("\n".join([",".join(CLINIC), *lines]))
    text = open_source(tmp_path / "clinic.csv")
    np.testing.assert_array_equal(found.x, text.x)
    assert found.columns == text.columns
    assert (found.classes, found.labels.tolist()) == (text.classes, text.labels.tolist())
    assert found.fingerprint() == text.fingerprint()
    assert found.name == text.name
    assert found.named(torch.tensor([2])) == ["clinic.parquet:2"]


def test_kinds_of_columns(tmp_path):
    table = {
        "truth": pa.array([True, False, None]),
        "kept": pa.array(["b", "a", "b"]).dictionary_encode(),
        "numbers in words": ["10", "9", "10"],
        "single": pa.array([0.1, 2.5, 3.0], pa.float32()),
        "decimal": pa.array([Decimal("1.25"), Decimal("2.50"), Decimal("0.01")]),
        "long": [1 / 3, 2.0, 0.5],
        "class": pa.array([1.0, None, 0.0]),
    }
    source = open_source(write(tmp_path / "t.parquet", table))
    assert source.columns == (
        Column("truth", ("false", "true")),
        Column("kept", ("a", "b")),
        Column("numbers in words", ("10", "9")),
        Column("single", decimals=1),
        Column("decimal", decimals=2),
        Column("long"),
    )
    assert source.labels.tolist() == [1, -1, 0]
    assert source.quarantine() == {2: "truth is missing"}
    x = source.batch(torch.tensor([0, 1]), Noise(0, torch.arange(2))).x
    torch.testing.assert_close(x, torch.tensor([[1, 1, 0, 0.1, 1.25, 1 / 3], [0, 0, 1, 2.5, 2.5, 2]]))


def test_several_files_are_one_table(tmp_path):
    write(tmp_path / "a.parquet", {"x": [1.0, 2.0], "k": ["u", "v"]})
    write(tmp_path / "b.parquet", {"x": [3.0, float("nan")], "k": ["t", "u"]})
    source = open_source(tmp_path)
    assert source.columns[1].categories == ("t", "u", "v")
    assert source.x[:, 1].tolist() == [1.0, 2.0, 0.0, 1.0]
    assert source.named(torch.tensor([1, 2])) == ["a.parquet:1", "b.parquet:0"]
    assert source.quarantine() == {3: "it holds a number that is not finite"}
    write(tmp_path / "c.parquet", {"x": [3.0], "other": ["t"]})
    with pytest.raises(DataError, match=r"c.parquet' has other columns than .*a.parquet': give tables with the same"):
        open_source(tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"c\.parquet' is damaged"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": pa.array([], pa.int64())}, "has no rows"),
        ({"label": [1, 2]}, "has the column 'label' alone"),
        ({"a": [1, 2], "label": [1.5, 2.0]}, r"the column 'label' of .* holds 1\.5, and whole numbers or words"),
        ({"a": [1, 2], "label": [-7, 2]}, "the column 'label' of .* numbers from 0"),
        ({"a": [str(k) for k in range(1001)]}, "the column 'a' of .* has 1,001 different words"),
    ],
)
def test_tables_that_are_refused(tmp_path, values, reason):
    with pytest.raises(DataError, match=reason):
        open_source(write(tmp_path / "t.parquet", values))
