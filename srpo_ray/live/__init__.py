"""Progress of runs and experiments while they work: its file, the table and the lines on a terminal; no Ray."""
