"""Methods that the trainer can train: one folder per paper, the same file names in each."""
