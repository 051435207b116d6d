# SPDX-License-Identifier: MIT
"""What nvcc makes of the kernels, and that the check would notice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_ptxas.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_ptxas", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_ptxas = load_tool()

PTX = """
.visible .entry _ZN7certcal23add_noise_vector_kernelIfLi1EEEv(
	.param .u64 p
)
{
	ld.global.nc.v4.u32 	{%r1, %r2, %r3, %r4}, [%rd1];
	fma.rn.f32 	%f3, %f1, %f2, %f3;
	st.global.v4.f32 	[%rd2], {%f1, %f2, %f3, %f4};
	ret;
}
.entry _ZN7certcal14certify_kernelEv(
)
{
	add.rn.f64 	%fd1, %fd2, %fd3;
	cvt.f64.f32 	%fd1, %f1;
	cvt.rzi.s64.f64 	%rd1, %fd1;
	setp.lt.f64 	%p1, %fd1, %fd2;
	ret;
}
"""
LOG = """
ptxas info    : Compiling entry function '_ZN7certcal23add_noise_vector_kernelIfLi1EEEv' for 'sm_90'
ptxas info    : Function properties for _ZN7certcal23add_noise_vector_kernelIfLi1EEEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _ZN7certcal14certify_kernelEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""


def all_faults(ptx: str, log: str) -> str:
    return "; ".join(
        f"{check_ptxas.readable(name)}: {reason}"
        for name, reasons in check_ptxas.faults_of(ptx, log).items()
        for reason in reasons
    )


def test_a_clean_file_has_no_faults() -> None:
    assert all_faults(PTX, LOG) == ""


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("ld.global.nc.v4.u32", "ld.global.nc.v2.u32", "loads no 16 bytes"),
        ("st.global.v4.f32", "st.global.f32", "stores no 16 bytes"),
        ("fma.rn.f32", "fma.f32", "add_noise_vector_kernel.*: fma.f32 has no fixed rounding"),
        ("add.rn.f64", "add.f64", "certify_kernel.*: add.f64 has no fixed rounding"),
        ("add.rn.f64", "add.rn.ftz.f32", "add.rn.ftz.f32 has no fixed rounding"),
        ("add.rn.f64 ", "ex2.approx.f32 ", "ex2.approx.f32 has no fixed rounding"),
        ("cvt.f64.f32", "cvt.f32.f64", "cvt.f32.f64 has no fixed rounding"),
        ("0 bytes stack frame", "8 bytes stack frame", "has a stack frame of 8 bytes"),
        ("0 bytes spill loads", "4 bytes spill loads", "spills .0 bytes of stores, 4 of loads"),
        (
            "properties for _ZN7certcal14",
            "properties of 14",
            "certify_kernel.*: is not in the report",
        ),
    ],
)
def test_each_fault_is_found(good: str, bad: str, message: str) -> None:
    assert good in PTX + LOG
    with pytest.raises(AssertionError, match=message):
        assert all_faults(PTX.replace(good, bad), LOG.replace(good, bad)) == ""


@pytest.mark.skipif(check_ptxas.find_nvcc() is None, reason="nvcc was not found")
def test_kernels_have_no_spills_wide_stores_and_fixed_rounding() -> None:
    run = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
