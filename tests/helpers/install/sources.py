"""What a build of the wheel reads."""

WHEEL_SOURCES = (
    *("srpo_ray", "configs", "cluster", "cluster.yaml", "constraints.txt"),
    *("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"),
)
"""Files and folders of the repository's root."""
