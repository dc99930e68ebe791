"""What tuning did, on one page that needs nothing else, with a picture a section beside it.

It promises that every figure is one of the run's files, and works on what is there of them.
It reads records and results, and knows nothing of models; it changes no file of a run.
"""
