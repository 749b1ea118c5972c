"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Its text is the whole line the command line prints: what, where, and what to
    do about it. The command ends with exit code 1.
    """
