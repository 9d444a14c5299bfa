"""MLflow tracking: the driver opens runs, and trainer workers log to them without waiting for the server.

This is the only package that imports mlflow. It does so on first use, because the import takes seconds.
"""
