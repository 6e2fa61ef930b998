"""The commands of `gensys`, a file each: what was typed is read, the pipeline called, and told what came of it.

Nothing heavy is imported until a command needs it: `gensys --help` must not wait for torch.
"""
