"""``python -m accelsim`` is the same as ``accelsim``."""

from accelsim.cli import main

if __name__ == "__main__":
    main()
