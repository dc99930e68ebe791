"""The benchmarks of the papers, in the form of their harness."""
