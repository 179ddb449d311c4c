"""`edge-ad demo`: the whole line on this machine, on real solar cells, with nothing else installed or running."""
