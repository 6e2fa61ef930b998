import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagery import everything

from gensys.columns import Column, cells, rounded
from gensys.data.arrays import categorised
from gensys.data.sources import open_source
from gensys.data.table import write_table
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
        ("a,class,Label\n1,2,3\n", "columns 'class' and 'Label', each of which could hold the labels: rename"),
        ('a,b\n1,"2\n', "line 2 .* cannot be read"),
        (b"a,b\n1,\xff\n", "save it as UTF-8"),
        ("a,label\n1,-4\n", "column 'label'.*numbers from 0"),
        ("a,label\n1,99999999\n", "number them anew"),
    ],
)
def test_what_is_no_table(tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        open_source(table(tmp_path, text))


@pytest.mark.parametrize("mark", [";", "|"])
def test_a_table_with_another_mark_between_its_cells_is_told(tmp_path, mark):
    with pytest.raises(DataError, match=r"alone: its cells are divided by commas"):
        open_source(table(tmp_path, f"name{mark}age\nAnn{mark}3\nBob{mark}4\n"))


MIXED = "age,sex,pain\n40,f,none\n50,m, severe\n,f,mild\n60,,mild\n70,m,none\nx,f,none\n"


def test_columns_of_words_are_categories(tmp_path):
    source = open_source(table(tmp_path, MIXED))
    assert source.columns == (
        Column("age", decimals=0),
        Column("sex", ("f", "m")),
        Column("pain", ("mild", "none", "severe")),
    )
    rows = torch.tensor([0, 1, 4])
    assert source.batch(rows, None).x.tolist() == [[40, 0, 1], [50, 1, 2], [70, 1, 1]]
    assert source.quarantine() == {2: "age is missing", 3: "sex is missing", 5: "age is 'x', no number"}
    assert "6 vectors of 1 numbers and 2 categories (sex (2), pain (3)) of the table" in source.about


def test_numbers_have_the_decimals_that_they_are_written_with(tmp_path):
    text = "whole,money,power,fine,odd,missing\n7,2.50,1e3,0.1234567,1,\n-8.0,+.125,2,1,x,\n"
    columns = open_source(table(tmp_path, text)).columns
    assert [column.decimals for column in columns] == [0, 3, None, None, 0, None]
    x = torch.tensor([[1.5, 2.00049, 3.7, 0.123456789, -0.4, 5.5], [1e9, -7.0006, 1e-9, 0.0, 2.5, 0.1]])
    found = rounded(columns, x)
    assert found[:, 1].tolist() == torch.tensor([2.0, -7.001]).tolist()
    assert found[:, [0, 4]].tolist() == [[2.0, 0.0], [1e9, 2.0]]
    assert torch.equal(found[:, [2, 3, 5]], x[:, [2, 3, 5]])
    assert [row[:2] for row in cells(columns, found.numpy())] == [["2", "2.0"], ["1000000000", "-7.001"]]
    assert [row[4] for row in cells(columns, found.numpy())] == ["0", "2"]
    assert [row[0] for row in cells(columns, x.numpy())] == ["1.5", "1000000000"]


def test_a_column_that_names_its_rows_is_no_category(tmp_path):
    text = "name,x\n" + "".join(f"n{k},{k}\n" for k in range(1001))
    with pytest.raises(DataError, match=r"'name' of .* has 1,001 different words, and at most 1,000"):
        open_source(table(tmp_path, text))


def test_numbers_can_be_categories(tmp_path):
    source = open_source(table(tmp_path, "a,dose,sex\n1,0.5,f\n2,2,m\n3,x,f\n4,0.5,f\n7,10,m\n"))
    for chosen in (["dose"], ["1"], ["dose", "sex"]):
        found = categorised(source, chosen)
        assert found.columns == (Column("a", decimals=0), Column("dose", ("0.5", "2", "10")), Column("sex", ("f", "m")))
        assert found.batch(torch.tensor([0, 1, 3, 4]), None).x[:, 1].tolist() == [0, 1, 0, 2]
        assert found.quarantine() == source.quarantine()
        assert found.fingerprint() != source.fingerprint()
    for odd in ("nose", "3", "-1", "²"):
        with pytest.raises(DataError, match=f"no column '{odd}' in 't': they are a, dose, sex"):
            categorised(source, [odd])
    many = open_source(table(tmp_path, "a,b\n" + "".join(f"{k},1\n" for k in range(1001))))
    with pytest.raises(DataError, match=r"1,001 different numbers"):
        categorised(many, ["a"])


def test_a_category_is_its_name_and_not_its_number(tmp_path):
    """A word that sorts before the others changes their numbers, and no digest of their rows."""
    first = open_source(table(tmp_path, "a,sex\n1,f\n2,m\n"))
    more = open_source(table(tmp_path, "a,sex\n1,f\n2,m\n3,d\n", "u.csv"))
    assert np.array_equal(first.digests(), more.digests()[:2])
    other = open_source(table(tmp_path, "a,sex\n1,f\n2,w\n", "w.csv"))
    assert np.array_equal(first.x, other.x)
    assert (first.digests() == other.digests()).all(1).tolist() == [True, False]
    assert first.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_written_table_is_read_as_it_was(tmp_path, name):
    columns = (Column("a, b"), Column("sex", ("f", 'm"')), Column("c"))
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 1e-3
    x[:, 1] = np.arange(50) % 2
    write_table(tmp_path / name, columns, x)
    found = open_source(tmp_path / name)
    assert np.array_equal(found.x, x)
    assert (found.columns, found.classes) == (columns, ())
    write_table(tmp_path / name, columns, x, ["yes" if k % 3 else "no" for k in range(50)])
    assert everything(open_source(tmp_path / name)).cond["label"].tolist() == [int(k % 3 > 0) for k in range(50)]
    for odd in (2.0, -1.0, 0.5, np.nan):
        x[7, 1] = odd
        with pytest.raises(ValueError, match=r"'x' holds .* in the column 'sex', whose values are 0 to 1"):
            write_table(tmp_path / name, columns, x)
    with pytest.raises(ValueError, match=r"'x' must be \(n, 3\)"):
        write_table(tmp_path / name, columns, x[:, :2])


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
