"""The program of a loss as Triton source, for CUDA devices: what :mod:`dualloss.torch.gpu` compiles and launches.

Of the same program :mod:`dualloss.fast.codegen` makes LLVM IR for CPUs. Here (:mod:`.source`) it is one launch, or more
where neighbours need what is costly (:mod:`.stages`). Neither module imports a framework.
"""
