"""The experiments of both papers: what is trained, what it is attacked with, what is printed."""
