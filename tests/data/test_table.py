import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagery import everything

from gensys.data.sources import open_source
from gensys.errors import DataError


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_numbers_and_labels(tmp_path):
    source = open_source(table(tmp_path, "\ufeffage, Class ,height\n1,no,2.5\r\n\n-3e2,yes,.5\n4,,6\n"))
    assert everything(source).x.tolist() == [[1, 2.5], [-300, 0.5], [4, 6]]
    assert everything(source).cond["label"].tolist() == [0, 1, -1]
    assert (source.shape, source.classes, source.name) == ((2,), ("no", "yes"), "t")
    assert source.named(torch.arange(3)) == ["t.csv:2", "t.csv:4", "t.csv:5"]
    assert "3 vectors of 2 numbers of the table" in source.about
    assert source.texts(torch.arange(3)) is None


def test_tabs_and_numbers_as_labels(tmp_path):
    source = open_source(table(tmp_path, "label\tx\n3\t1\n0\t2\n", "t.tsv"))
    assert everything(source).cond["label"].tolist() == [3, 0]
    assert source.classes == ("0", "1", "2", "3")


def test_rows_that_cannot_be_read(tmp_path):
    lines = [
        "a,b,label",
        "1,2,0",
        "x,2,0",
        "1,,0",
        "1,2",
        "1,2,0,4",
        "nan,1,0",
        "1,inf,0",
        "1_0,1,0",
        '"1\n",2,1',
        "1e99,2,0",
    ]
    source = open_source(table(tmp_path, "\n".join(lines)))
    assert source.quarantine() == {
        1: "a is 'x', no number",
        2: "b is missing",
        3: "2 cells instead of 3",
        4: "4 cells instead of 3",
        5: "a is 'nan', no number",
        6: "b is 'inf', no number",
        7: "a is '1_0', no number",
        9: "it holds a number that is not finite",
    }
    assert source.named(torch.tensor([8, 9])) == ["t.csv:11", "t.csv:12"]  # a quoted cell may have a line's end in it
    with pytest.raises(DataError, match=r"'t\.csv:3' cannot be used: a is 'x', no number"):
        source.batch(torch.tensor([1]), None)
    assert source.batch(torch.tensor([0, 8]), None).x.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("1,2\n3,4\n", "first line .* is numbers"),
        ("a,a\n1,2\n", "two columns 'a'"),
        ("label\n1\n", "column 'label' alone"),
        ('a,b\n1,"2\n', "line 2 .* cannot be read"),
        (b"a,b\n1,\xff\n", "save it as UTF-8"),
        ("a,label\n1,-4\n", "column 'label'.*numbers from 0"),
        ("a,label\n1,99999999\n", "number them anew"),
    ],
)
def test_what_is_no_table(tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        open_source(table(tmp_path, text))


def test_a_table_of_words_is_all_in_quarantine(tmp_path):
    source = open_source(table(tmp_path, "name;age\nAnn;3\nBob;4\n"))
    assert source.quarantine() == {0: "name;age is 'Ann;3', no number", 1: "name;age is 'Bob;4', no number"}


def test_fingerprint(tmp_path):
    first = open_source(table(tmp_path, "a,label\n1,x\n2,y\n")).fingerprint()
    assert open_source(table(tmp_path, "a,label\r\n1.0,x\r\n2e0,y", "u.csv")).fingerprint() == first
    for text in ("a,label\n1,x\n2,x\n", "a,label\n1,x\n2.5,y\n", "a,label\n1,x\n2,z\n", "a,label\n1,x\n"):
        assert open_source(table(tmp_path, text)).fingerprint() != first


@given(
    values=st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3), min_size=1
    )
)
def test_what_is_written_is_read(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c"], *values])
    assert np.array_equal(everything(open_source(path)).x, np.array(values, np.float32))
