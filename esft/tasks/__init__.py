"""Tasks: rows, the questions they ask, and how answers are graded."""
