"""Composition: the ASGI app, the command line, the worker, the pipeline, the demo network."""
