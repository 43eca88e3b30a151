"""Training: options, the loop, the run folder that it writes, and later evaluations and pictures of
a run."""
