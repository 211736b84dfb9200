"""Turns the kernels' LLVM IR into an object file for any processor and system."""

from __future__ import annotations

import json
import re
from pathlib import Path

from llvmlite import binding as llvm

from rtmtass.native.ir import names_file
from rtmtass.native.targets import Target, Variant

_REFCOUNT = re.compile(
    r"^(?:declare [^\n]*@NRT_(?:incref|decref)\([^\n]*\n"
    r"|define [^\n]*@NRT_(?:incref|decref)\([^\n]*\{\n.*?^\}\n)",
    re.M | re.S,
)
_NO_REFCOUNT = """
define internal void @NRT_incref(ptr %x) alwaysinline { ret void }
define internal void @NRT_decref(ptr %x) alwaysinline { ret void }
"""
"""The kernels work on memory of C, which has no reference counts."""
_ROUND = """
define internal {kind} @rtmtass_rint.{name}({kind} %x) alwaysinline {{
    %far = fadd {kind} %x, {far}
    %near = fsub {kind} %far, {far}
    ret {kind} %near
}}
"""
"""Rounds half to even up to 2**22, where a float32 has no fraction; the kernels round up to 127."""
_FAR = "12582912.0"
_ROUNDED = {
    "f32": ("float", _FAR),
    "v16f32": ("<16 x float>", "<" + ", ".join([f"float {_FAR}"] * 16) + ">"),
}
_HEADER = re.compile(r"^target (?:datalayout|triple) = .*\n", re.M)


def write_object(ir: Path, target: Target, variant: Variant, path: Path) -> None:
    """Compile IR of `ir.ir_file` for a variant of a target.

    Args:
        ir: the file, with its names beside it.
        path: the object to write; its symbols are `rtmtass_VARIANT_ENTRY`.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target.llvm).create_target_machine(
        cpu=variant.cpu, features=variant.features, opt=3, reloc="pic", codemodel="default"
    )
    text = _REFCOUNT.sub("", _HEADER.sub("", ir.read_text()))
    if not variant.has_fma:  # or each would be a call of a slow function
        text = text.replace("@llvm.fma.", "@llvm.fmuladd.")
    if not variant.has_rounding:
        text = text.replace("@llvm.rint.f32(float %", "@rtmtass_rint.f32(float %")
        text = text.replace(
            "@llvm.rint.v16f32(<16 x float> %", "@rtmtass_rint.v16f32(<16 x float> %"
        )
        for name, (kind, far) in _ROUNDED.items():
            text += _ROUND.format(name=name, kind=kind, far=far)
    names = json.loads(names_file(ir).read_text())
    text += _NO_REFCOUNT + "".join(
        _c_function(f"rtmtass_{variant.name}_{entry}", **about) for entry, about in names.items()
    )
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = target.llvm, str(machine.target_data)
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and not value.name.startswith("rtmtass_"):
            value.linkage = "internal"
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    options.loop_interleaving = options.loop_unrolling = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    path.write_bytes(machine.emit_object(module))


def _c_function(name: str, symbol: str, arguments: int) -> str:
    """Return the IR of a C function that calls a kernel: int64 arguments, int64 result.

    Numba's own convention has a pointer to the result and one to an exception before the
    arguments, and returns a status; no kernel of ours raises.
    """
    declared = ", ".join(f"i64 %a{i}" for i in range(arguments))
    passed = "".join(f", i64 %a{i}" for i in range(arguments))
    return f"""
define hidden i64 @{name}({declared}) {{
    %result = alloca i64
    %exception = alloca ptr
    store i64 0, ptr %result
    %status = call i32 @"{symbol}"(ptr %result, ptr %exception{passed})
    %value = load i64, ptr %result
    ret i64 %value
}}
"""
