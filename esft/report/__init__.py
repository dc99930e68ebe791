"""One page on what tuning did: `write_report` reads run folders and writes HTML and pictures."""
