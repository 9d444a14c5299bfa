"""Cluster file of a project folder: nodes install the released package instead of a clone."""

import re

from srpo_ray import __version__

CLUSTER_FILES = ("cluster/environment.sh", "cluster/start_mlflow.sh", "constraints.txt")
"""Files that the commands of `cluster.yaml` read on the nodes."""

_HEADER = """\
# A Ray cluster on AWS, started from your own machine:
#
#   pip install 'srpo_ray[aws]'                # with what `ray up` needs for AWS
#   ray get-auth-token --generate >/dev/null   # once: makes ~/.ray/auth_token, which is copied to every node below
#   ray up cluster.yaml                        # the head; trainers and rewards start when a run requests them
#   srpo-ray sweep sweep.yaml --cluster cluster.yaml
#   ray down cluster.yaml                      # ends every node; files in /shared stay
#
# Fill in the two lines marked EDIT, and `provider.region` with its zones.
"""
_CLONE_SETUP = """\
  # Python and all packages as tested together: `make setup` installs what constraints.txt pins.
"""
_CLONE_INSTALL = """\
  - cd ~/srpo_ray && make setup PYTHON="$(~/.local/bin/uv python find 3.11)"
"""
_PROJECT_SETUP = """\
  # Python, and the versions that are tested together. A wheel of srpo_ray in this folder has precedence over PyPI.
"""
_PROJECT_INSTALL = f"""\
  - cd ~/srpo_ray && ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 .venv
  - >-
    cd ~/srpo_ray && ~/.local/bin/uv pip install --quiet --python .venv/bin/python --find-links . -c constraints.txt
    uv srpo_ray=={__version__}
"""


def project_cluster_file(text: str) -> str:
    """Convert the cluster file of a clone to that of a project folder.

    Args:
        text: Text of `cluster.yaml` in the repository's root.

    Returns:
        Text of the project's cluster file.
    """
    text = re.sub(r"\A(?:#.*\n)+", lambda _: _HEADER, text)
    for old, new in ((_CLONE_SETUP, _PROJECT_SETUP), (_CLONE_INSTALL, _PROJECT_INSTALL)):
        assert old in text, old
        text = text.replace(old, new)
    return text
