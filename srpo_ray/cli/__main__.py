"""Entry point of `python -m srpo_ray.cli`."""

import sys

from srpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
