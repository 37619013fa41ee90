"""The one exception that stands for a mistake of the user's, not of ours."""


class InputError(Exception):
    """What was asked for cannot be done as asked: one line that names the thing and the remedy.

    The command line prints the line and exits with code 2; a library user catches it like any other.
    Every other exception is a fault of the program and keeps its traceback.
    """
