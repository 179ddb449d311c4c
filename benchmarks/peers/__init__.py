"""Other methods beside ours: same images, same masks, same machine (docs/experiments.md, "Peers")."""
