"""The problem sets: one folder for each chapter, see README.md."""
