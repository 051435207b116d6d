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
    sys.modules[spec.name] = module  # dataclasses look for it
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
        ("add.rn.f64 ", "sqrt.approx.f32 ", "sqrt.approx.f32 has no fixed rounding"),
        ("fma.rn.f32 ", "mul.lo.s64 %rd3, %rd1, 3528531795; //", "multiplies 64-bit numbers in P"),
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


def test_the_seed_of_a_square_root_may_be_approximate() -> None:
    assert all_faults(PTX.replace("add.rn.f64 ", "rsqrt.approx.ftz.f32 "), LOG) == ""


def disassembly(body: list[str], kernel: str = "23add_noise_vector_kernelIfLi1EE") -> str:
    """Of a kernel with a loop, as nvdisasm prints it; the loop is inside a longer one."""
    lines = [".text._ZN7certcal" + kernel + "Evv:", "        /*0000*/  S2R R0, SR_TID.X ;"]
    lines += [".L_x_0:", "        /*0010*/  IADD3 R2, R2, 0x1, RZ ;", ".L_x_1:"]
    lines += [f"        /*{32 + 16 * k:04x}*/  {one} ;" for k, one in enumerate(body)]
    lines += ["        /*1000*/  @!P0 BRA `(.L_x_1) ;", "        /*1010*/  @P1 BRA `(.L_x_0) ;"]
    return "\n".join([*lines, "        /*1020*/  EXIT ;"])


DRAWS = ["IMAD.HI.U32 R1, R2, R3, RZ", "MUFU.RSQ R4, R5", "FFMA R6, R4, R4, R5"]
DRAWS += ["@P2 IADD3 R7, R7, 0x1, RZ", "STG.E.128 desc[UR4][R2.64], R8"]
KEY = "add_noise_vector_kernel<float, 1>, draws"


def loop_faults(sass: str, budgets: dict[str, int] | None) -> str:
    faults, _ = check_ptxas.sass_faults(sass, budgets)
    return "; ".join(reason for reasons in faults.values() for reason in reasons)


def test_the_instructions_of_an_inner_loop_are_counted() -> None:
    sass = disassembly(DRAWS)
    faults, counts = check_ptxas.sass_faults(sass, {KEY: 6})
    assert counts == {KEY: 6}  # with the branch, without what is around it
    assert not any(faults.values())
    assert loop_faults(sass, {KEY: 5}) == "draws: 6 instructions, 5 are allowed"
    assert loop_faults(sass, {}) == "draws: 6 instructions, 0 are allowed"
    assert loop_faults(sass, None) == ""


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("CALL.REL.NOINC `($sqrt)", "CALL.REL.NOINC in the inner loop"),
        ("MUFU.RCP R1, R2", "MUFU.RCP in the inner loop"),
        ("F2I.TRUNC R1, R2", "F2I.TRUNC in the inner loop"),
        ("LDG.E R1, desc[UR4][R2.64]", "LDG.E in the inner loop"),
        ("I2FP.F32.U32 R1, R2", ""),
        ("@!P0 CALL.REL.NOINC `(.L_x_9)", ""),  # how some devices leave a loop
    ],
)
def test_what_an_inner_loop_must_not_have(instruction: str, message: str) -> None:
    assert message in loop_faults(disassembly([*DRAWS, instruction]), None)
    assert bool(loop_faults(disassembly([*DRAWS, instruction]), None)) == bool(message)


def test_narrow_loads_and_conversions_of_the_votes_are_found() -> None:
    kernel = "18count_votes_kernelILi32ELb0EfE"
    good = ["LDG.E.128.CONSTANT R4, desc[UR4][R2.64]", "FMNMX R1, R1, R4, !PT", "REDUX.MAX UR4, R1"]
    good += ["ATOMS.POPC.INC.32 RZ, [R1]"]
    assert loop_faults(disassembly(good, kernel), None) == ""
    narrow = ["LDG.E.64.CONSTANT R4, desc[UR4][R2.64]", *good]
    assert "LDG.E.64.CONSTANT in the inner loop" in loop_faults(disassembly(narrow, kernel), None)
    assert "I2F in the inner loop" in loop_faults(disassembly([*good, "I2F R1, R2"], kernel), None)


def test_a_loop_that_is_gone_is_told() -> None:
    assert "has no loop with" in loop_faults(disassembly(["NOP"]), None)


def test_the_square_root_is_that_of_nvcc() -> None:
    root = ["MUFU.RSQ R2, R1", "FMUL.FTZ R3, R1, R2", "FMUL.FTZ R2, R2, 0.5"]
    root += ["FFMA R1, -R3, R3, R1", "FFMA R1, R1, R2, R3"]
    assert check_ptxas.square_root_faults(disassembly(root)) == []
    assert check_ptxas.square_root_faults(disassembly([*root[:3], root[4]]))
    assert check_ptxas.square_root_faults(disassembly(["FMUL R1, R1, R1"]))


@pytest.mark.skipif(check_ptxas.find_nvcc() is None, reason="nvcc was not found")
def test_kernels_have_no_spills_wide_stores_and_fixed_rounding() -> None:
    run = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
