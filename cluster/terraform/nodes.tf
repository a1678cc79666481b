data "aws_iam_policy_document" "trust_ec2" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

locals {
  # The CNI has a role of its own, so that a node's role may not change interfaces of others. SSM is the way in without
  # keys or open ports.
  node_policies = ["AmazonEC2ContainerRegistryPullOnly", "AmazonEKSWorkerNodePolicy", "AmazonSSMManagedInstanceCore"]
}

resource "aws_iam_role" "node" {
  for_each = toset(["karpenter", "system"])

  name               = "${var.name}-${each.key}-node"
  assume_role_policy = data.aws_iam_policy_document.trust_ec2.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = { for pair in setproduct(keys(aws_iam_role.node), local.node_policies) : join(":", pair) => pair }

  role       = aws_iam_role.node[each.value[0]].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.value[1]}"
}

# The node group's own entry is made by EKS.
resource "aws_eks_access_entry" "karpenter_node" {
  cluster_name  = aws_eks_cluster.this.name
  principal_arn = aws_iam_role.node["karpenter"].arn
  type          = "EC2_LINUX"
}

# IAM has no endpoint in a VPC, so that where it is airgapped an EC2NodeClass names this as `instanceProfile` instead of
# having Karpenter make one for `role`. Hence the role's name.
resource "aws_iam_instance_profile" "karpenter_node" {
  name = aws_iam_role.node["karpenter"].name
  role = aws_iam_role.node["karpenter"].name
}

resource "aws_launch_template" "system" {
  name                   = "${var.name}-system"
  update_default_version = true

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type = "gp3"
      volume_size = 100
      encrypted   = true
    }
  }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # pods do not get at the node's role
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-system" }
  }
}

# No taint: everything that says nothing of where it runs may run here.
resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.node["system"].arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = [var.system_nodes.instance_type]

  launch_template {
    id      = aws_launch_template.system.id
    version = aws_launch_template.system.latest_version
  }

  scaling_config {
    desired_size = var.system_nodes.count
    min_size     = var.system_nodes.count
    max_size     = var.system_nodes.count + 1 # while one is replaced
  }

  update_config {
    max_unavailable = 1
  }

  depends_on = [aws_eks_addon.for_nodes, aws_iam_role_policy_attachment.node]
}

# What EC2 is about to take away, Karpenter drains before. It looks for the queue by the cluster's name.
resource "aws_sqs_queue" "interruptions" {
  name                      = var.name
  message_retention_seconds = 300
  sqs_managed_sse_enabled   = true
}

data "aws_iam_policy_document" "interruptions" {
  statement {
    sid       = "Events"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.interruptions.arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [for rule in aws_cloudwatch_event_rule.interruption : rule.arn]
    }
  }
  statement {
    sid       = "OnlyTLS"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.interruptions.arn]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "interruptions" {
  queue_url = aws_sqs_queue.interruptions.url
  policy    = data.aws_iam_policy_document.interruptions.json
}

resource "aws_cloudwatch_event_rule" "interruption" {
  for_each = {
    health       = ["aws.health", "AWS Health Event"]
    state        = ["aws.ec2", "EC2 Instance State-change Notification"]
    spot         = ["aws.ec2", "EC2 Spot Instance Interruption Warning"]
    rebalance    = ["aws.ec2", "EC2 Instance Rebalance Recommendation"]
    reservations = ["aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning"]
  }

  name          = "${var.name}-${each.key}"
  event_pattern = jsonencode({ source = [each.value[0]], detail-type = [each.value[1]] })
}

resource "aws_cloudwatch_event_target" "interruption" {
  for_each = aws_cloudwatch_event_rule.interruption

  rule = each.value.name
  arn  = aws_sqs_queue.interruptions.arn
}
