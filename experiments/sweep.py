"""Search settings for SRPO, compare them, report: the same code as `srpo-ray sweep`.

python experiments/sweep.py                                   # the small world, on this machine
python experiments/sweep.py experiment.search.num_samples=16
python experiments/sweep.py --resume runs/small_world_sweep   # resume after Ctrl-C or a crash
python experiments/sweep.py --address auto                    # on the Ray cluster of this node
"""

import sys

from srpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
