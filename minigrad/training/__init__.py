"""Training: options, the loop, the run folder that it leaves behind, and what is asked of it
later."""
