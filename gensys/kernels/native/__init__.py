"""The ops of gensys in C++, for a CPU: one module per op, with the plain functions that the op calls.

These functions check nothing and know no autograd: that is the business of the op's own file in gensys/kernels. They
take contiguous tensors, as the op's file has made them, and call the operators of csrc/ops, whose checks only keep a
direct call from touching memory that is not its own.
"""
