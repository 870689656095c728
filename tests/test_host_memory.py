"""Freed memory is kept where JAX computes on the CPU, in a process of its own because it cannot be undone."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, sys
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"
import numpy as np
os.environ["JAX_PLATFORMS"] = sys.argv[1]
from flan_jax import host_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, done = faults(), host_memory.keep_freed()
faults()
print(done, before, faults())
"""


def run(platform: str) -> tuple[bool, int, int]:
    out = subprocess.run([sys.executable, "-c", PROGRAM, platform], check=True, capture_output=True, text=True).stdout
    done, before, after = out.split()
    return done == "True", int(before), int(after)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is glibc on Linux alone")
def test_the_cpu_keeps_what_it_freed():
    done, before, after = run("cpu")
    assert done
    assert after < before / 20


def test_an_accelerators_host_is_left_alone():
    done, before, after = run("tpu,cpu")
    assert not done
    assert after > before / 20
