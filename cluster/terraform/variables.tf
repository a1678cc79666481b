variable "name" {
  description = "Of the cluster; buckets, roles and keys begin with it. Buckets share one namespace with all the world, so put something of your own in: rayapp-prod-k3f9."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}[a-z0-9]$", var.name))
    error_message = "name is 4 to 32 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "region" {
  description = "Of everything. p4d is in few: us-east-1, us-west-2, eu-west-1 and some more."
  type        = string
}

variable "zones" {
  description = "Three availability zones of the region. FSx and the reserved p4d nodes lie in the first: check that it has p4d."
  type        = list(string)

  validation {
    condition     = length(var.zones) == 3 && length(distinct(var.zones)) == 3
    error_message = "zones are three different ones: aws ec2 describe-instance-type-offerings --location-type availability-zone --filters Name=instance-type,Values=p4d.24xlarge"
  }
}

variable "admins" {
  description = "ARNs of the IAM roles that administer the cluster. Whoever runs Terraform is none unless named."
  type        = list(string)

  validation {
    condition     = length(var.admins) > 0 && alltrue([for arn in var.admins : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "admins names at least one role, as arn:aws:iam::ACCOUNT:role/NAME; without one, nobody can use the cluster."
  }
}

variable "kubernetes_version" {
  description = "Of the control plane. Raise it by one minor version at a time."
  type        = string
  default     = "1.35"
}

variable "public_access_cidrs" {
  description = "Who reaches the API server from the internet. With none, it has its private endpoint alone: use a VPN or a host in the VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.public_access_cidrs, "0.0.0.0/0")
    error_message = "public_access_cidrs opens the API server to all the world; name your offices' addresses."
  }
}

variable "vpc_cidr" {
  description = "A /16. Each zone gets a quarter for nodes and pods, which have an address each."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(regex("/16$", var.vpc_cidr))
    error_message = "vpc_cidr is a /16."
  }
}

variable "airgapped" {
  description = "No way to or from the internet: AWS is reached through endpoints in the VPC, and images come from ECR alone."
  type        = bool
  default     = false
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone rather than one for all, so that a zone can fail without cutting off the others. Costs three times as much."
  type        = bool
  default     = false

  validation {
    condition     = !(var.nat_per_zone && var.airgapped)
    error_message = "an airgapped VPC has no NAT gateway; set nat_per_zone or airgapped, not both."
  }
}

variable "system_nodes" {
  description = "The nodes that are always there, for controllers, MLflow and dashboards. Karpenter, which runs on them, makes all others."
  type = object({
    instance_type = optional(string, "m7i.xlarge")
    count         = optional(number, 3)
  })
  default = {}
}

variable "fsx" {
  description = "FSx for Lustre. It is the largest standing cost: 4.8 TiB at 250 MB/s/TiB are some 1,000 USD a month."
  type = object({
    capacity_gib        = optional(number, 4800)
    throughput_mb_s_tib = optional(number, 250)
  })
  default = {}

  validation {
    condition     = var.fsx.capacity_gib == 1200 || var.fsx.capacity_gib % 2400 == 0
    error_message = "fsx.capacity_gib is 1200 or a multiple of 2400."
  }
  validation {
    condition     = contains([125, 250, 500, 1000], var.fsx.throughput_mb_s_tib)
    error_message = "fsx.throughput_mb_s_tib is 125, 250, 500 or 1000."
  }
}

variable "reserve_p4d_nodes" {
  description = "p4d.24xlarge to reserve, in the first zone. Each costs some 22 to 33 USD an hour from the moment it is reserved, used or not."
  type        = number
  default     = 0
}

variable "capacity_reservation_id" {
  description = "A reservation that is there already, such as a Capacity Block, instead of reserve_p4d_nodes."
  type        = string
  default     = null

  validation {
    condition     = var.capacity_reservation_id == null || var.reserve_p4d_nodes == 0
    error_message = "capacity_reservation_id is instead of reserve_p4d_nodes; set one of them."
  }
}

variable "placement_group" {
  description = "p4d nodes side by side, for EFA at its fastest. Not with a Capacity Block, which places its nodes itself."
  type        = bool
  default     = true
}
