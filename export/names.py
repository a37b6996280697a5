"""What the outputs of every file of ours are called."""

OUTPUT = "probabilities"
SCORE = "ood_score"
