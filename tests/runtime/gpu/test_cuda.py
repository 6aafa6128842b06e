"""Promises of gpu/cuda.py that need no CUDA: which driver serves which runtime."""

from __future__ import annotations

import pytest

from fiffdepth_rt.errors import DriverError
from fiffdepth_rt.gpu import cuda


@pytest.mark.parametrize(("driver", "runtime"), [(13000, 13000), (13000, 12080), (12020, 12090)])
def test_a_driver_serves_its_own_major_version_and_older_ones(driver: int, runtime: int) -> None:
    cuda.check_driver(driver, runtime)


def test_a_driver_that_is_too_old_names_both_versions_and_both_ways() -> None:
    with pytest.raises(DriverError) as error:
        cuda.check_driver(12040, 13000)
    said = str(error.value)
    assert "serves CUDA up to 12.4" in said and "for CUDA 13.0" in said
    assert "Update the driver" in said and "pip install 'cuda-python>=12,<13'" in said
    with pytest.raises(DriverError, match=r"no driver of an NVIDIA GPU.*nvidia-smi"):
        cuda.check_driver(0, 13000)
