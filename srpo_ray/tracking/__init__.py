"""MLflow: the driver opens runs, trainer workers log to them without ever waiting for the server.

The only package that imports mlflow, and it does so on first use, since that import takes seconds.
"""
