"""The bundled model, stage by stage: python -m training.nano."""
