"""`python -m vampnet`; see `vampnet.cli`."""

from vampnet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
