"""What the distances of 50,000 images need; pytest -s prints the time as well."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, sys, time
import torch
from gensys.engine.memory import peak_bytes
from gensys.evaluate.frechet import frechet_distance
from gensys.evaluate.prdc import prdc

n, d = int(sys.argv[1]), int(sys.argv[2])
generator = torch.Generator().manual_seed(0)
samples, reference = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
found = {}
for name, call in (("frechet", frechet_distance), ("prdc", prdc)):
    began = time.process_time()
    result = call(samples, reference)
    found[name] = time.process_time() - began
found["density"] = result.density
found["peak"] = peak_bytes()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_fifty_thousand_images_fit_in_two_gibibytes():
    """The matrix of their distances alone has 20; the process with torch in it starts at 0.3."""
    ran = subprocess.run([sys.executable, "-c", MEASURE, "50000", "64"], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    print(f"CPU seconds: {found['frechet']:.1f} and {found['prdc']:.1f}; resident: {found['peak'] / 2**20:.0f} MiB")
    assert found["density"] == pytest.approx(1.0, abs=0.05)
    assert found["peak"] < 2 * 2**30
