"""What a running process tells over HTTP: metrics, whether it is well, and a page for people."""
