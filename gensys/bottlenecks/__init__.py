"""Bottlenecks: what a latent passes between an encoder and a decoder, each a module with its own loss."""
