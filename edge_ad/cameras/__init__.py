"""Image sources behind one Protocol (base.py), and the thread that keeps one alive (capture.py)."""
