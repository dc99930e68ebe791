"""What tuning did to everything else: tasks on the models of a run, nothing scored twice."""
