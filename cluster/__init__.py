"""Running on a cluster: jobs that are submitted to one, one on this machine, and the manifests of real ones."""
