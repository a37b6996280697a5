"""`python -m topclass` is the command `topclass`."""

from topclass.cli import main

main()
