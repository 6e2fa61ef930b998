"""The ops of gensys in Triton, for NVIDIA and AMD GPUs: one module per op, with the plain functions that the op calls.

These functions check nothing and know no autograd: that is the business of the op's own file in gensys/kernels, which
imports a module from here only when it has chosen it (importing triton is slow, and triton is optional). They take
contiguous tensors on one device, as the op's file has made them. How a kernel is launched follows from the shapes by
plain functions, not from measurements at run time: the same shapes give the same bits.

What has been executed: the kernels ran under Triton's interpreter, on a CPU, where the tests compare them with their
definitions; and they are compiled ahead of time for sm_80, sm_90, sm_100 and gfx942 (see ahead.py), where the tests
read registers, spills and the width of loads from the machine code. They never ran on a GPU, so no speed is claimed.
"""
