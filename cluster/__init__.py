"""Running on a cluster. The manifests for KubeRay and EKS will live here; `ray job submit` works already."""
