"""Compare methods as the paper's Table 1 does, then ablate SRPO: the same code as `srpo-ray compare`.

python experiments/paper_table.py                            # the small world, on this machine; about an hour
python experiments/paper_table.py experiment.seeds=[1,2,3,4,5]
python experiments/paper_table.py --resume runs/paper_table  # resume after Ctrl-C or a crash
python experiments/paper_table.py --address auto             # on the Ray cluster of this node
"""

import sys

from srpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
