"""Objectives: from a batch and its noise to a loss, each a plain function."""
