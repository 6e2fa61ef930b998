"""Invertible maps with known determinants, the parts of a flow: forward(x) -> (y, logdet), inverse(y) -> (x, logdet).

logdet: (B,) in nats, the logarithm of the |determinant| of the map that was asked for, for each row.
"""
