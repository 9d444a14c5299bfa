"""A command of this machine as a job of a cluster: sent there, followed, and its report brought back."""
