import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from imagery import CLASSES, everything, same

from gensys.data import parquet
from gensys.data.sources import open_source
from gensys.errors import DataError


def columns(items, structs=False, label=lambda item: item.label):
    images = [{"bytes": i.data, "path": f"{i.key}.{i.suffix}"} if structs else i.data for i in items]
    return {"image": images, "label": [label(i) for i in items], "caption": [i.caption for i in items]}


def write(path, values, names=(), rows=5, **options):
    table = pa.table(values)
    if names:  # as Hugging Face's datasets write them
        info = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=rows, **options)
    return path


def test_bytes(items, folder, tmp_path):
    source = open_source(write(tmp_path / "a.parquet", columns(items)))
    assert same(source, folder, items)
    assert source.named(torch.tensor([0, 7])) == ["a.parquet:0", "a.parquet:7"]
    assert "12 RGB images of the table" in source.about


def test_structs_with_the_names_of_classes_in_many_tables(items, folder, tmp_path):
    for k, part in enumerate((items[:7], items[7:])):
        write(tmp_path / f"part-{k}.parquet", columns(part, structs=True), names=CLASSES, rows=3)
    for data in (tmp_path, tmp_path / "part-{0..1}.parquet"):
        source = open_source(data)
        assert same(source, folder, items)
        assert source.classes == CLASSES
        assert source.named(torch.tensor([6, 7, 11])) == ["part-0.parquet:6", "part-1.parquet:0", "part-1.parquet:4"]


def test_words_as_labels_in_a_dictionary_column(items, folder, tmp_path):
    values = columns(items, label=lambda item: CLASSES[item.label])
    values["label"] = pa.array(values["label"]).dictionary_encode()
    assert same(open_source(write(tmp_path / "a.parquet", values)), folder, items)


def test_row_groups_are_read_when_needed_and_few_are_kept(items, folder, tmp_path, monkeypatch):
    source = open_source(write(tmp_path / "a.parquet", columns(items), rows=2))
    read, real = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda f, i, **o: read.append(i) or real(f, i, **o))
    wanted = everything(open_source(folder)).x
    monkeypatch.setattr("gensys.data.images._KEPT_BYTES", 0)
    for row in (0, 5, 1, 11, 0, 4):
        assert torch.equal(source.batch(torch.tensor([row]), None).x[0], wanted[row])
    assert read == [2, 5, 2]  # the first group was read for a header; the one used longest ago goes
    assert len(source.items._cache) == parquet._KEPT_GROUPS


def test_without_labels_and_captions(items, tmp_path):
    source = open_source(write(tmp_path / "a.parquet", {"png": [i.data for i in items], "id": list(range(12))}))
    assert (source.classes, source.texts(torch.arange(12))) == ((), None)
    assert everything(source).cond == {}


def test_rows_that_cannot_be_read(items, tmp_path):
    values = columns(items, structs=True)
    values["image"][2] = None
    values["image"][3] = {"bytes": None, "path": "/etc/passwd"}
    values["image"][4] = {"bytes": items[4].data[:99], "path": ""}
    values["label"][5], values["caption"][5] = None, None
    source = open_source(write(tmp_path / "a.parquet", values))
    found = source.quarantine()
    assert list(found) == [2, 3, 4]
    assert (found[2], found[3]) == ("it has no bytes", "it has no bytes")
    assert source.items.labels[5] == -1
    assert source.texts(torch.tensor([5])) == [""]


def test_a_damaged_row_group_is_rows(items, tmp_path):
    path = write(tmp_path / "a.parquet", columns(items), rows=4, use_dictionary=False, compression="zstd")
    meta = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[meta.data_page_offset : meta.data_page_offset + 400] = bytes(400)
    path.write_bytes(data)
    found = open_source(path).quarantine()
    assert list(found) == [4, 5, 6, 7]
    assert all("row group is damaged" in why for why in found.values())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": [1, 2], "b": [["x"], ["y"]]}, r"columns a \(int64\), b \(list<"),
        ({"a": [b"1"], "b": [b"2"]}, "a, b could be it"),
        ({"image": pa.array([], pa.binary())}, "have no rows"),
        ({"image": [b"1"], "label": [1.5]}, "column 'label'.*holds 1.5"),
        ({"image": [b"1"], "label": [True]}, "column 'label'.*holds True"),
        ({"image": [b"1"], "label": [-7]}, "column 'label'.*numbers from 0"),
        ({"image": [b"1"], "text": [3]}, "column 'text'.*holds 3: words"),
    ],
)
def test_tables_of_something_else(tmp_path, values, reason):
    with pytest.raises(DataError, match=reason):
        open_source(write(tmp_path / "a.parquet", values))


def test_damaged_tables(items, tmp_path):
    path = write(tmp_path / "a.parquet", columns(items))
    whole = path.read_bytes()
    for data in (b"", b"no table", whole[:-9], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="no Parquet table, or a damaged one"):
            open_source(path)


def test_tables_with_other_columns(items, tmp_path):
    write(tmp_path / "a.parquet", columns(items))
    write(tmp_path / "b.parquet", {"image": [items[0].data]})
    with pytest.raises(DataError, match="give tables with the same columns"):
        open_source(tmp_path)


def test_names_that_are_too_few(items, tmp_path):
    with pytest.raises(DataError, match=r"from 0 to 1, or -1 for none, got 0\.\.2"):
        open_source(write(tmp_path / "a.parquet", columns(items), names=CLASSES[:2]))


def test_a_changed_byte_changes_the_fingerprint(items, tmp_path):
    values = columns(items)
    first = open_source(write(tmp_path / "a.parquet", values, rows=2)).fingerprint()
    assert open_source(write(tmp_path / "b.parquet", values, rows=100)).fingerprint() == first
    values["image"][3] = items[4].data
    changed = open_source(write(tmp_path / "c.parquet", values))
    assert changed.fingerprint() != first
    assert np.array_equal(changed.digests()[:3], open_source(tmp_path / "a.parquet").digests()[:3])
