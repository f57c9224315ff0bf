"""MLflow, the offline half: runs, artifacts, versions, aliases. The only room of the pipeline with mlflow in it."""
