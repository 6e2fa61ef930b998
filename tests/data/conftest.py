import pytest
from imagery import CLASSES, Item, encoded


@pytest.fixture(scope="session")
def items():
    """Twelve images of three kinds and three classes, in the order that a folder of them has."""
    suffixes = ("png", "jpg", "webp")
    return [Item(f"{k:03}", suffixes[k % 3], encoded(k, suffixes[k % 3]), k // 4, f"picture {k}, é") for k in range(12)]


@pytest.fixture(scope="session")
def folder(items, tmp_path_factory):
    """The same as a folder of class folders, with captions beside the images."""
    root = tmp_path_factory.mktemp("folder")
    for item in items:
        place = root / CLASSES[item.label]
        place.mkdir(exist_ok=True)
        (place / f"{item.key}.{item.suffix}").write_bytes(item.data)
        (place / f"{item.key}.txt").write_text(item.caption + "\n", encoding="utf-8")
    return root
