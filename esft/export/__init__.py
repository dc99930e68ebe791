"""A step of a run as a model folder or a journal, compared with the model in memory."""
