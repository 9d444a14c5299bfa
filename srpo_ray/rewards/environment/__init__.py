"""Custom rewards in Python environments of their own: a child process per reward, called over a socket."""
