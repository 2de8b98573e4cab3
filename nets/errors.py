"""Errors that a user can correct: scripts print them as one line and exit with status 2."""


class UserError(ValueError):
    """A wrong option, file or environment; the text says what is wrong and how to correct it."""


class BadSample(ValueError):
    """A sample of a dataset that cannot be used, and the file that causes it.

    file  the path as the user gave it
    why   what is wrong with the file, a phrase without a full stop
    """

    def __init__(self, file: object, why: str):
        super().__init__(str(file), why)
        self.file, self.why = str(file), why

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"
