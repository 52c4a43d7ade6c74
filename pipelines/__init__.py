"""The stages, wired into Kubeflow pipelines; nothing is computed here."""
