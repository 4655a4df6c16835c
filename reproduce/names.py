"""What is asked for by name. Nothing is imported here, so that the command line knows these names
before torch is there."""

DATASETS = ("mnist", "cifar10", "digits", "patterns")
PAPERS = ("dqa", "double-quantization")
SCALES = ("smoke", "laptop", "workstation", "paper", "original")
SUITES = ("table", "trial", "file", "shown", "norms", "transfer", "checks")
