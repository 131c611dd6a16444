"""``python -m ramet``: the command line."""

from ramet.cli.app import main

if __name__ == "__main__":
    main()
