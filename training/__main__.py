"""`python -m training`: which recipes there are."""

HELP = """\
python -m training.RECIPE [flags]    trains, and prints the run folder

  training.mlp    a multilayer perceptron, for small pictures and for tables
  training.cnn    a small convolutional network, for pictures

Both take the same flags; --help explains each. The first thing to try:

  RUN=$(python -m training.mlp --data digits)    # seconds; open $RUN/report.html
  python -m export "$RUN"
"""

if __name__ == "__main__":
    print(HELP, end="")
