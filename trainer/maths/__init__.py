"""Pure mathematics of the methods; each function names its paper and equation."""
