"""procedural scenes -> the bundled model, stage by stage. START HERE: __main__.py lists the stages."""
