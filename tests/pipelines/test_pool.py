"""The pool without Ray: order, threads, errors, and what is said when Ray does not start."""

from dataclasses import dataclass

import pytest
import ray
import torch
from gensys.pipelines.pool import Pool
from gensys.pipelines.session import Session

from gensys.errors import DataError, GensysError


@dataclass(frozen=True)
class Noting:
    """Does nothing but note what happens to it, in a list that all copies share."""

    name: str
    noted: tuple[list[object], ...] = ([],)

    def load(self):
        self.noted[0].append(f"load {self.name}")

        def work(shard):
            self.noted[0].append((shard, torch.get_num_threads()))
            if shard == 13:
                raise DataError("shard 13 is damaged")
            return 10 * shard

        return work


@pytest.fixture(autouse=True)
def two_threads():
    """As on any machine with more than one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_shard_is_done_once_in_order_on_one_thread():
    before, done, job = torch.get_num_threads(), [], Noting("a", ([],))
    pool = Pool(0)
    pool.map(job, [4, 1, 2], done.append)
    pool.close()
    assert done == [40, 10, 20]
    assert job.noted[0] == ["load a", (4, 1), (1, 1), (2, 1)]
    assert torch.get_num_threads() == before


def test_nothing_to_do_loads_nothing():
    job = Noting("a", ([],))
    Pool(0).map(job, [], lambda rows: None)
    assert job.noted[0] == []


def test_an_error_of_a_shard_is_that_error():
    before, done, job = torch.get_num_threads(), [], Noting("a", ([],))
    with pytest.raises(DataError, match=r"^shard 13 is damaged$"):
        Pool(0).map(job, [1, 13, 2], done.append)
    assert done == [10]
    assert torch.get_num_threads() == before


def test_ray_that_does_not_start_is_told(monkeypatch):
    def init(**options):
        raise OSError("no room")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    pool = Pool(2)
    with pytest.raises(GensysError, match=r"Ray did not start .*no room.*--workers 0"):
        pool.map(Noting("a"), [1], lambda rows: None)
    pool.close()
    with Session(1) as session, pytest.raises(GensysError, match="Ray did not start"):
        session.ready()
