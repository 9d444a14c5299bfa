"""The commands, each from parsed arguments to an exit code. Nothing heavy is imported before it is needed."""
