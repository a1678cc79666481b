"""Step 6: fitting a recogniser to manifests, in Ray Train with DeepSpeed."""
