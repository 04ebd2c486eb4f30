"""The embedded stack: everything `make run` and the tests start, from wheels alone.

`stack.bootstrap` and `stack.tether` use the standard library only: they run before, or outside of,
the virtual environment.
"""
