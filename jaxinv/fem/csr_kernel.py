"""The sparse product's kernel for a CPU, compiled by LLVM for the processor at hand.

XLA's own kernel keeps no sums in registers and knows no wide vectors. This one holds a row of the result in
vector registers while it runs along a row of the matrix, for a number of columns that is known when it is
compiled; it can add to what the result holds, and take inner products of the result on the way. Rows are
shared out among threads, one a core. XLA calls it through its foreign function interface (jaxlib's
`xla/ffi/api/c_api.h`, major version 0, to whose records new fields are only added at the end).
"""

import ctypes
import os
from functools import cache
from importlib.resources import files

import jax
import jinja2
import numpy as np
from llvmlite import binding

VECTOR = 64  # bytes: one register where registers are widest
SUMS = 8  # vectors that are summed in at a time
AHEAD = 32  # entries of the matrix by which columns are fetched before they are needed
SERIAL = 1 << 18  # multiplications that are not worth a second thread
FLOATS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

_engines = []  # own the machine code


@cache
def csr_target(dtype: np.dtype, n_columns: int, *, onto: bool = False, against: bool = False) -> str:
    """Name under which XLA finds a kernel; compiles it when first asked.

    Args:
        dtype: of matrix and columns; indices are of 32 bits.
        n_columns: of the dense matrix.
        onto: whether the product is added to an operand that shares its memory.
        against: whether the inner products of the result with one more operand are a second result.
    """
    name = f"jaxinv_csr_{dtype}_{n_columns}" + "_onto" * onto + "_against" * against
    source = files("jaxinv.fem").joinpath("csr_kernel.ll.jinja").read_text()
    assembly = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(
        name=name, scalar=FLOATS[dtype], size=dtype.itemsize, columns=n_columns,
        tiles=_tiles(n_columns, FLOATS[dtype], VECTOR // dtype.itemsize),
        threads=_n_cores(), serial=SERIAL, ahead=AHEAD, onto=onto, against=against,
    )  # fmt: skip
    engine = _compiled(assembly)
    _engines.append(engine)
    address = ctypes.c_void_p(engine.get_function_address(name))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    return name


def _tiles(n_columns: int, scalar: str, lanes: int) -> list[list[dict]]:
    """Columns as vectors of full width, then of halves of it; some in a tile."""
    vectors, first = [], 0
    while first < n_columns:
        while first + lanes > n_columns:
            lanes //= 2
        kind = f"<{lanes} x {scalar}>"
        vectors.append({"k": len(vectors), "first": first, "width": lanes, "kind": kind})
        first += lanes
    return [vectors[k : k + SUMS] for k in range(0, len(vectors), SUMS)]


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
