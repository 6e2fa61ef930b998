"""Invertible maps with known determinants, the parts of a flow: forward(x, cond) -> (z, logdet), inverse(z, cond) -> x.

x is on the side of the data, z on the side of the base law. logdet: (B,) in nats, log |det dz/dx| of each row.
"""
