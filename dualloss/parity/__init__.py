"""What holds every engine to the exact numerics: the executable definition and what compares with it."""
