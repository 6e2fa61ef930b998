"""The ops of gensys in C++, for a CPU: plain functions, for the ops that are more than one call of an operator.

These functions check nothing and know no autograd: that is the business of the op's own file in gensys/kernels. They
take contiguous tensors, as the op's file has made them, and call the operators of csrc/ops, whose checks only keep a
direct call from touching memory that is not its own.
"""
