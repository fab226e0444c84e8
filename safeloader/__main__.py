"""``python -m safeloader``: the command line."""

from safeloader.cli import main

if __name__ == "__main__":
    main()
