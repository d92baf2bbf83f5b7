"""`python -m molino` is the command `molino`."""

import sys

from molino.command.entry import main

if __name__ == "__main__":
    sys.argv[0] = "molino"
    main()
