import io
import json
import os
import tarfile

import pytest
import torch
from imagery import CLASSES, encoded, same

from gensys.data.sources import open_source
from gensys.errors import DataError


def tar(path, members, **options):
    """Write (name, bytes) into a tar."""
    with tarfile.open(path, "w", **options) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def sample(item):
    """The members of an item: its class a number, its caption a text."""
    return [
        (f"{item.key}.{item.suffix}", item.data),
        (f"{item.key}.cls", str(item.label).encode()),
        (f"{item.key}.txt", item.caption.encode()),
    ]


def members(items):
    return [member for item in items for member in sample(item)]


def test_one_tar(items, folder, tmp_path):
    source = open_source(tar(tmp_path / "all.tar", members(items)))
    assert same(source, folder, items)
    assert source.named(torch.tensor([0, 11])) == ["all.tar/000.png", "all.tar/011.webp"]
    assert (source.name, source.classes, source.shape) == ("all", ("0", "1", "2"), (3, 32, 32))
    assert "12 RGB images of the tar" in source.about


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_of_tar(items, folder, tmp_path, form):
    long = "x" * 60 + "/" + "y" * 60 + "/"
    source = open_source(tar(tmp_path / "a.tar", [(long + n, d) for n, d in members(items)], format=form))
    assert same(source, folder, items)


def test_many_tars_and_json(items, folder, tmp_path):
    for k in range(4):
        of_k = [
            member
            for i in items[3 * k : 3 * k + 3]
            for member in [
                (f"./{i.key}.{i.suffix}", i.data),
                (f"./{i.key}.json", json.dumps({"label": CLASSES[i.label], "caption": i.caption, "width": 1}).encode()),
            ]
        ]
        tar(tmp_path / f"train-{k:04}.tar", of_k)
    (tmp_path / "README.md").write_text("what this is")
    for data in (tmp_path, tmp_path / "train-{0000..0003}.tar"):
        source = open_source(data)
        assert same(source, folder, items)
        assert source.classes == CLASSES
        assert source.named(torch.tensor([4])) == ["train-0001.tar/004.jpg"]
    assert len(open_source(tmp_path / "train-{0001..0002}.tar")) == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_against_webdataset(items, tmp_path):
    """What the library of that name writes, and how it groups what we read."""
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed", exc_type=ImportError)
    path = str(tmp_path / "a.tar")
    with wds.TarWriter(path) as writer:
        for item in items:
            entry = {"__key__": f"dir/{item.key}", item.suffix: item.data, "cls": item.label, "seg.png": encoded(500)}
            writer.write(entry)
    source = open_source(path)
    read = list(wds.WebDataset(path, shardshuffle=False))
    assert [name.rpartition(".")[0] for name in source.named(torch.arange(12))] == [
        f"a.tar/{r['__key__']}" for r in read
    ]
    assert [source.items.read(row) for row in range(12)] == [r[i.suffix] for r, i in zip(read, items, strict=True)]
    assert source.items.labels.tolist() == [int(r["cls"]) for r in read]


def test_samples_that_cannot_be_read_are_rows(items, tmp_path):
    good = [member for item in items[:2] for member in sample(item)]
    path = tar(
        tmp_path / "a.tar",
        [
            *good,
            ("x1.txt", b"no image"),
            ("x2.png", items[0].data[:500]),
            ("x3.png", items[0].data),
            ("x3.cls", b"\xff\xfe"),
            ("x4.png", items[0].data),
            ("x4.json", b"{"),
            ("x5.png", items[0].data),
            ("x5.jpg", items[1].data),
            ("x6.png", items[0].data),
            ("x6.json", b'{"label": [1]}'),
            ("x7.png", b""),
            ("dir.d/x8.png", items[0].data),
            ("._hidden.png", b"of a Mac"),
            ("no-extension", b""),
        ],
    )
    source = open_source(path)
    assert source.named(torch.tensor([2, 3, 9])) == ["a.tar/x1", "a.tar/x2.png", "a.tar/dir.d/x8.png"]
    assert len(source) == 10
    found = source.quarantine()
    assert list(found) == [2, 3, 4, 5, 6, 7, 8]
    wanted = [
        "no image among",
        "truncated",
        "its .cls is",
        "its .json is",
        "two images, .png and .jpg",
        "[1]",
        "is empty",
    ]
    assert all(part in why for part, why in zip(wanted, found.values(), strict=True)), found


def with_link(path):
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)


DAMAGE = [
    (lambda p, m: tar(p, [("/etc/a.png", b"x")]), "a path that leaves it"),
    (lambda p, m: tar(p, [("a/../../b.png", b"x")]), "a path that leaves it"),
    (lambda p, m: with_link(p), "no plain file"),
    (lambda p, m: tar(p, [*m, m[0]]), "the sample '000' is twice"),
    (lambda p, m: tar(p, [m[0], m[0]]), "the file '000.png' is twice"),
    (lambda p, m: tar(p, [("a.txt", b"x")]), "no sample with an image"),
    (lambda p, m: tar(p, []), "no sample with an image"),
    (lambda p, m: p.write_bytes(b""), "no tar"),
    (lambda p, m: p.write_bytes(b"no tar at all" * 100), "no tar"),
    (lambda p, m: p.write_bytes(b"\x1f\x8b" + bytes(600)), "compressed.*gunzip it first"),
    (lambda p, m: tar(p, [("a.png", b"x"), ("a.cls", b"-3")]), "labels are numbers from 0"),
    (lambda p, m: p.mkdir(), "holds no image"),
    (lambda p, m: os.mkfifo(p), "no file but a pipe"),
]


@pytest.mark.parametrize(("make", "reason"), DAMAGE)
def test_what_is_no_tar_of_images(items, tmp_path, make, reason):
    path = tmp_path / "a.tar"
    make(path, members(items))
    with pytest.raises(DataError, match=reason):
        open_source(path)


def test_every_truncation_is_seen(items, tmp_path):
    """Also where a member ends, and in the blocks that close the tar; nothing but padding may be lost."""
    whole = tar(tmp_path / "a.tar", members(items[:2])).read_bytes()
    end = len(whole.rstrip(b"\0"))
    content = -(-end // 512) * 512
    for cut in {1, 511, 512, 700, 1024, end // 2, *range(0, content + 1, 512)}:
        (tmp_path / "b.tar").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"truncated|no tar|empty file|no sample"):
            open_source(tmp_path / "b.tar")
    (tmp_path / "b.tar").write_bytes(whole[: content + 512])
    assert len(open_source(tmp_path / "b.tar")) == 2


def test_a_damaged_header_does_not_end_a_tar_early(items, tmp_path):
    data = bytearray(tar(tmp_path / "a.tar", members(items)).read_bytes())
    place = data.index(b"006.png")
    data[place + 150] ^= 1  # in the header's checksum
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="damaged in the middle"):
        open_source(tmp_path / "a.tar")


def test_two_tars_in_one_file(items, tmp_path):
    one = tar(tmp_path / "a.tar", members(items[:3])).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + one)
    with pytest.raises(DataError, match="goes on after its end"):
        open_source(tmp_path / "a.tar")


def test_nothing_is_written(items, tmp_path):
    tar(tmp_path / "a.tar", members(items)).chmod(0o400)
    before = sorted(os.scandir(tmp_path), key=lambda e: e.name)
    open_source(tmp_path / "a.tar").fingerprint()
    assert [e.name for e in before] == os.listdir(tmp_path)


def test_a_changed_byte_changes_the_fingerprint(items, tmp_path):
    first = open_source(tar(tmp_path / "a.tar", members(items))).fingerprint()
    assert open_source(tar(tmp_path / "b.tar", members(items))).fingerprint() == first
    for change in [("000.txt", b"another"), ("000.cls", b"2"), ("000.png", encoded(100))]:
        changed = [change if name == change[0] else (name, data) for name, data in members(items)]
        assert open_source(tar(tmp_path / "c.tar", changed)).fingerprint() != first


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a-{000..002}.tar", "2 of its 3 files are missing, such as 'a-001.tar'"),
        ("a-{5..2}.tar", "must rise"),
        ("a-{0..9999999}.tar", "by less than a million"),
        ("a-{x}.tar", "one range of numbers"),
        ("a-{0..1}-{0..1}.tar", "one range of numbers"),
        ("a-{0..1}.csv", "is the file"),
    ],
)
def test_patterns_that_name_nothing(items, tmp_path, name, reason):
    tar(tmp_path / "a-000.tar", members(items))
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / name)


def test_two_kinds_in_one_folder(items, tmp_path):
    tar(tmp_path / "a.tar", members(items))
    (tmp_path / "b.png").write_bytes(items[0].data)
    with pytest.raises(DataError, match=r"1 \.tar and 1 \.png files: keep one kind"):
        open_source(tmp_path)
