"""What XLA does badly on a CPU, in machine code of our own; elsewhere JAX does the same.

LLVM compiles a kernel for the processor at hand, from a template of its assembly language. Where llvmlite is
not installed nothing but speed is lost.
"""
