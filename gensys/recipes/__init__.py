"""Recipes: each file holds one function of its own name, which returns a Run. `gensys list` shows them."""
