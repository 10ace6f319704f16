"""`python -m jaxad` is the console script `jaxad`."""

import sys

from jaxad.main import main

if __name__ == "__main__":
    sys.exit(main())
