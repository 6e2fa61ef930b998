"""Data: where rows come from, in which order they are visited, and how latents and samples are kept.

sources.py  open_source("mnist" | "fashion" | a folder of images | a latent store) -> Source, and its split
images.py   a folder of images as a source
order.py    the training order, a pure function of (seed, position)
store.py    the sharded Zarr store: one atomic, repeatable commit per shard
latents.py  a store of latents as a source
"""
