"""What a run will cost on a cluster, simulated: how long, how busy, which group holds the others up."""
