"""``python -m pydistrib``: the post and real data, beside their originals."""

import sys

from pydistrib.demo.run import main

if __name__ == "__main__":
    sys.exit(main())
