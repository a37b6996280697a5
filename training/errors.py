"""Every way a training command can fail; each fault knows the exit status that it ends with."""

INTERRUPTED = 130  # the exit status that a shell reports for a command that Ctrl-C ended


class TrainingError(Exception):
    """A run that cannot go on; its text is one line for people."""

    exit_status = 1


class DataError(TrainingError):
    """The data are missing, broken, or not what a classifier can learn from."""


class DivergedError(TrainingError):
    """The network answers with numbers that are not finite: the fit has run away."""


class UsageError(TrainingError):
    """The command line asks for something that does not exist."""

    exit_status = 2
