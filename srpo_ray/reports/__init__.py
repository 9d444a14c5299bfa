"""Reports of sweeps, comparisons, evaluations and control words: pages, terminal tables, CSV and JSON files."""
