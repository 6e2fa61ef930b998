"""Data: where rows come from, in which order they are visited, and how latents and samples are kept.

source.py   what a source is, and its split into training and test rows
sources.py  open_source("mnist" | "fashion" | a folder, file or store) -> Source
digits.py   MNIST and Fashion-MNIST, from the packages that carry them
images.py   encoded images as a source; they are kept in
            folder.py, webdataset.py (tars) or parquet.py
decode.py   bytes -> pixels
examine.py  the pass over all of them, in child processes: digests, and what cannot be read
arrays.py   .npz and .npy: images or vectors
table.py    .csv: vectors
quarantine.py  rows that cannot be read: how many may be, and what is told of them
order.py    the training order, a pure function of (seed, position)
store.py    the sharded Zarr store: one atomic, repeatable commit per shard
where.py    paths and URLs of stores
layout.py   how that store lies on the disk
verify.py   what can be wrong with it
latents.py  a store of latents as a source
manifest.py what every row of a latent store is to hold
encoding.py one encoding: the plan, its prediction, updates of stores
text.py     embeddings of captions beside a latent store
info.py     what a store is and how far it is
"""
