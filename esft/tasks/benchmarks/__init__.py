"""The benchmarks of the papers: readers of their rows, graders, and tables of the tasks.

A reader makes a Row of one object of the source; a TaskError names the column that is wrong.
"""
