"""``python -m lmcompress`` is the command ``lmcompress``."""

from lmcompress.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
