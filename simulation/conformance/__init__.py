"""The conformance kit behind `tandemrec check`."""
