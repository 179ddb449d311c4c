"""The desktop side: training, evaluation and export of bundles."""
