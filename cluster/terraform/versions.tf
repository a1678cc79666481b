terraform {
  required_version = ">= 1.10" # the state's lock lies in the bucket

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # `terraform init -backend-config=bucket=... -backend-config=region=...`: the state is shared, and no laptop's.
  backend "s3" {
    key          = "rayapp/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = "rayapp", cluster = var.name }
  }
}
