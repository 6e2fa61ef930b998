"""Data: where rows come from, in which order they are visited, and how latents and samples are kept.

source.py   what a source is, and its split into training and test rows
sources.py  open_source("mnist" | "fashion" | a folder of images | a latent store) -> Source
digits.py   MNIST and Fashion-MNIST, from the packages that carry them
images.py   a folder of images as a source
order.py    the training order, a pure function of (seed, position)
store.py    the sharded Zarr store: one atomic, repeatable commit per shard
layout.py   how that store lies on the disk
verify.py   what can be wrong with it
latents.py  a store of latents as a source
"""
