"""`python -m gensys` is `gensys`."""

from gensys.cli import main

if __name__ == "__main__":
    main()
