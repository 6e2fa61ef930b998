"""Tables of what to sample: three kinds of file, one content; and everything that can be wrong with one."""

import json
import math
import re

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from gensys.data.sample_table import SampleTable, read_sample_table
from gensys.errors import DataError

CLASSES = ("ant", "bee", "cat")
ALL = frozenset({"label", "guidance", "seed", "text"})
ROWS = [
    {"label": "bee", "guidance": 1.5, "seed": 7, "prompt": 'one "bee", flying'},
    {"label": 0, "guidance": 2, "seed": -1, "prompt": "ants\nin two lines"},
    {"label": "cat", "guidance": 0.0, "seed": 2**62, "prompt": "K\u00e4tzchen\u2028"},
]

FIRST, SECOND = "row 0 (counted from 0), ", "row 1 (counted from 0), "


def write(path, rows=ROWS):
    names = list(rows[0])
    if path.suffix == ".parquet":
        columns = {n: [r[n] if n != "label" else str(r[n]) for r in rows] for n in names}
        parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        quoted = [[str(v).replace('"', '""') for v in row] for row in [names, *(r.values() for r in rows)]]
        path.write_text("\n".join(",".join(f'"{v}"' for v in row) for row in quoted))
    return path


def read(path, classes=CLASSES, conditions=ALL):
    return read_sample_table(path, classes, conditions)


def test_the_kind_of_file_does_not_matter(tmp_path):
    found = [read(write(tmp_path / f"t.{kind}")) for kind in ("csv", "jsonl", "parquet")]
    for table in found:
        assert len(table) == 3
        assert {name: column.tolist() for name, column in table.columns.items()} == {
            "label": [1, 0, 2], "guidance": [1.5, 2.0, 0.0], "seed": [7, -1, 2**62],
            "prompt": [row["prompt"] for row in ROWS],
        }  # fmt: skip
        assert [table.columns[n].dtype for n in ("label", "guidance", "seed")] == [np.int64, np.float64, np.int64]
    assert len({table.digest() for table in found}) == 1


def test_the_digest_is_that_of_the_content(tmp_path):
    changes = ({}, {"label": "ant"}, {"guidance": 1.25}, {"seed": 8}, {"prompt": "a bee"})
    contents = [[{**ROWS[0], **change}, *ROWS[1:]] for change in changes]
    contents += [ROWS[:2], [{"label": row["label"]} for row in ROWS]]
    digests = [read(write(tmp_path / "t.csv", rows)).digest() for rows in contents]
    assert len(set(digests)) == len(digests)


def test_a_name_comes_before_a_number(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("label\n7\n0\n1\n")
    assert read(path, ("7", "1", "x")).columns["label"].tolist() == [0, 0, 1]


def test_what_programs_write_around_a_table_is_no_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbflabel, guidance\r\nbee,2\r\nant,1\r\n\r\n")
    table = read(path)
    assert isinstance(table, SampleTable)
    assert (table.columns["label"].tolist(), table.columns["guidance"].tolist()) == ([1, 0], [2.0, 1.0])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "lable\nbee\n", "has the unknown column 'lable'. Did you mean 'label'? Known: label, guidance, seed"),
        ("t.csv", "label,weight\nbee,1\n", "has the unknown column 'weight'. Known:"),
        ("t.csv", "label,label\nbee,ant\n", "names a column twice: label, label"),
        ("t.csv", "label\nbee\nbea\n", "row 1, column 'label': there is no class 'bea'. Did you mean 'bee'?"),
        ("t.csv", "label\n3\n", "row 0, column 'label': a label lies in 0..2, got 3; the nearest is 2"),
        ("t.csv", "label\n-1\n", "a label lies in 0..2, got -1; the nearest is 0"),
        ("t.csv", "label\n1.0\n", "there is no class '1.0'."),
        ("t.csv", "label,seed\nbee,1\n,2\n", "row 1, column 'label': a label is a class's name or"),
        ("t.jsonl", '{"label": true}', "a label is a class's name or number, got True"),
        ("t.jsonl", '{"label": null}', "a label is a class's name or number, got None"),
        ("t.jsonl", '{"guidance": NaN}', "row 0, column 'guidance': guidance is a finite number, got nan"),
        ("t.csv", "guidance\n1\ninf\n", "row 1, column 'guidance': guidance is a finite number, got 'inf'"),
        ("t.csv", "guidance\nmuch\n", "guidance is a finite number, got 'much'"),
        ("t.jsonl", '{"guidance": [1]}', "guidance is a finite number, got [1]"),
        ("t.csv", "seed\n1.5\n", "a seed is a whole number of 64 bits, got '1.5'"),
        ("t.csv", f"seed\n{2**63}\n", "a seed is a whole number of 64 bits, got"),
        ("t.jsonl", '{"prompt": 3}', "column 'prompt': a prompt is a text, got 3"),
        ("t.csv", "label,seed\nbee,1\nant\n", "row 1, has 1 values for the 2 columns label, seed"),
        ("t.csv", "label\nbee\n\nant\n", "row 1, has 0 values"),
        ("t.csv", 'label\nbee\n"ant\n', "row 1, no CSV: unexpected end of data"),
        ("t.csv", "", "is empty: it needs a row for every sample, and one of label,"),
        ("t.csv", "label\n", "is empty"),
        ("t.jsonl", "\n", "is empty"),
        ("t.jsonl", "{}\n{}\n", "is empty"),
        ("t.jsonl", '{"label": 1}\n{"label": 1', "row 1, no JSON"),
        ("t.jsonl", '{"label": 1}\n[1]', "row 1, must be a JSON object such as"),
        ("t.jsonl", '{"label": 1}\n{"seed": 1}', "row 1, column 'label': there is none"),
        ("t.jsonl", '{"label": 1}\n{"label": 1, "seed": 1}', "row 1, column 'seed': row 0 has none"),
        ("t.parquet", "label\nbee\n", "is no Parquet file, or a damaged one"),
        ("t.txt", "label\nbee\n", "must end in one of .csv, .jsonl, .parquet"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(said.replace("row 0, ", FIRST).replace("row 1, ", SECOND))) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path / "folder.csv")
    for name in ("latin.csv", "latin.jsonl"):
        (tmp_path / name).write_bytes("label\nk\u00e4fer\n".encode("latin-1"))
        with pytest.raises(DataError, match="is not UTF-8 text"):
            read(tmp_path / name)
    whole = write(tmp_path / "t.parquet").read_bytes()
    for damaged in (b"", whole[:100], whole[:-30]):
        (tmp_path / "t.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.parquet' is no Parquet file, or a damaged one"):
            read(tmp_path / "t.parquet")


def test_a_parquet_file_may_lack_values(tmp_path):
    for column, said in (("label", "got None"), ("guidance", "got None"), ("seed", "got None")):
        parquet.write_table(pyarrow.table({column: pyarrow.array([1, None])}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=f"row 1 .*column '{column}': .*{said}"):
            read(tmp_path / "t.parquet")
    parquet.write_table(pyarrow.table({"guidance": [1.0, math.nan]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"row 1 .*got nan"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("column", "what"), [("label", "labels"), ("prompt", "texts"), ("guidance", "guidance for each sample")]
)
def test_a_column_that_the_model_does_not_know_is_refused(tmp_path, column, what):
    path = write(tmp_path / "t.jsonl", [{column: ROWS[0][column]}])
    assert len(read(path)) == 1
    with pytest.raises(DataError, match=f"has the column '{column}', and this model takes no {what}: leave it out"):
        read(path, conditions=ALL - {"label", "text", "guidance"})
