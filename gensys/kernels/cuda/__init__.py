"""The ops of gensys in CUDA C++, for NVIDIA GPUs: one module per op, with the plain functions that the op calls.

These functions check nothing and know no autograd: that is the business of the op's own file in gensys/kernels. They
take contiguous tensors on one GPU, as the op's file has made them, and start the kernels of csrc/cuda on the stream
that torch works on there. The same shapes give the same bits, on every GPU.

What has been executed: the kernels and their launches ran on a CPU under an emulation, where the tests compare them
with their definitions; they are compiled for sm_80, sm_90, sm_100 and, as PTX, for later GPUs, and the tests read
registers and spills from the machine code. They never ran on a GPU, so no speed is claimed.
"""
