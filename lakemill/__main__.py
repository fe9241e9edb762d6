"""The command line, as `python -m lakemill`."""

from __future__ import annotations

from lakemill.cli import main

if __name__ == "__main__":
    main()
