"""Photos with exact depth to score on, one file per dataset."""
