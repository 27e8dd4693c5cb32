"""Kernels for a CPU, compiled by LLVM for the processor at hand and called by XLA.

XLA calls them through its foreign function interface (jaxlib's `xla/ffi/api/c_api.h`, major version 0, to
whose records new fields are only added at the end); `call.ll.jinja` is that side of a kernel.
"""

import ctypes
import os
import threading
from functools import cache

import jax
import jinja2
import numpy as np
from llvmlite import binding

VECTOR = 64  # bytes: one register where registers are widest
FLOATS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

_engines = {}  # own the machine code
_lock = threading.Lock()  # threads may compile at once
_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxinv.kernels", ""), undefined=jinja2.StrictUndefined, autoescape=False
)


def register(template: str, name: str, dtype: np.dtype, **variables) -> str:
    """Compiles a kernel when first asked, and returns the name under which XLA finds it.

    Args:
        template: of the kernel.
        name: that stands for all the variables.
        dtype: of the numbers, float32 or float64.
        variables: of the template, beside those of every template.
    """
    with _lock:
        if name not in _engines:
            dtype = np.dtype(dtype)
            assembly = _templates.get_template(template).render(
                name=name, scalar=FLOATS[dtype], size=dtype.itemsize, threads=_n_cores(), **variables
            )
            engine = _compiled(assembly)
            address = ctypes.c_void_p(engine.get_function_address(name))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
            _engines[name] = engine
    return name


@cache
def _n_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _compiled(assembly: str) -> binding.ExecutionEngine:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    module = binding.parse_assembly(assembly)
    module.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
