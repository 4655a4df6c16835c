"""Two papers on quantisation as a defence against adversarial examples, re-run and put on trial."""

__version__ = "0.1.0"
