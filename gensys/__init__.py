"""gensys: every family of generative model, one contract, four verbs."""
