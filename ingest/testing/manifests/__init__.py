"""Kubernetes manifests, held against what Kubernetes, KubeRay and this project ask of them, without a cluster.

``python -m ingest.testing.manifests k8s/overlays/mine`` renders an overlay with kubectl and says what is wrong with it.
"""
