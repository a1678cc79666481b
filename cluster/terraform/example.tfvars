# cp example.tfvars terraform.tfvars, and replace what is in capitals.
name   = "rayapp-prod-k3f9"
region = "us-west-2"
zones  = ["us-west-2b", "us-west-2a", "us-west-2c"]
admins = ["arn:aws:iam::ACCOUNT:role/ROLE"]

# public_access_cidrs = ["203.0.113.0/24"]   # without, only from within the VPC
# airgapped           = true
# reserve_p4d_nodes   = 2                    # costs from the moment it is applied
