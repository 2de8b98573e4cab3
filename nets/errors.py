"""Mistakes that a user can put right: scripts print them as one line and leave with status 2."""


class UserError(ValueError):
    """A wrong option, file or environment; the text says what is wrong and what would be right."""


class BadSample(ValueError):
    """A sample of a dataset that cannot be used, with the file that is to blame.

    file  the path as the user knows it
    why   what is wrong with it, a phrase without a full stop
    """

    def __init__(self, file: object, why: str):
        super().__init__(str(file), why)
        self.file, self.why = str(file), why

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"
