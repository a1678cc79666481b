# p4d on demand is rarely to be had at once. Without a reservation, Karpenter asks until it gets nodes, which can be never.

resource "aws_placement_group" "p4d" {
  count = var.placement_group ? 1 : 0

  name     = "${var.name}-p4d"
  strategy = "cluster"
}

# By far the largest cost of all: it runs from the moment it is made, whether nodes run or not.
resource "aws_ec2_capacity_reservation" "p4d" {
  count = var.reserve_p4d_nodes > 0 ? 1 : 0

  instance_type           = "p4d.24xlarge"
  instance_platform       = "Linux/UNIX"
  instance_count          = var.reserve_p4d_nodes
  availability_zone       = var.zones[0]
  instance_match_criteria = "targeted" # nobody else's p4d takes it by chance
  placement_group_arn     = one(aws_placement_group.p4d[*].arn)
  tags                    = { Name = "${var.name}-p4d", "karpenter.sh/discovery" = var.name }
}

# Karpenter finds reservations by this tag, those too that were there before.
resource "aws_ec2_tag" "reservation" {
  count = var.capacity_reservation_id != null ? 1 : 0

  resource_id = var.capacity_reservation_id
  key         = "karpenter.sh/discovery"
  value       = var.name
}
