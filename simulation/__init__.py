"""The experiment: data, links, metrics, the replay loop, run folders and the command line."""
