data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  log_group = "/aws/eks/${var.name}/cluster"
}

data "aws_iam_policy_document" "cluster_key" {
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
  statement {
    sid       = "ControlPlaneLogs"
    actions   = ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["logs.${var.region}.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:${var.region}:${local.account}:log-group:${local.log_group}"]
    }
  }
}

resource "aws_kms_key" "cluster" {
  description         = "${var.name}: Kubernetes secrets and the control plane's logs"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.cluster_key.json
}

resource "aws_kms_alias" "cluster" {
  name          = "alias/${var.name}-cluster"
  target_key_id = aws_kms_key.cluster.key_id
}

# Made here, since EKS would make it without a key and keep it for ever.
resource "aws_cloudwatch_log_group" "cluster" {
  name              = local.log_group
  kms_key_id        = aws_kms_key.cluster.arn
  retention_in_days = 90
}

data "aws_iam_policy_document" "trust_eks" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name               = "${var.name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.trust_eks.json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEKSClusterPolicy"
}

data "aws_iam_policy_document" "cluster_secrets" {
  statement {
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ListGrants", "kms:DescribeKey"]
    resources = [aws_kms_key.cluster.arn]
  }
}

resource "aws_iam_role_policy" "cluster_secrets" {
  name   = "secrets"
  role   = aws_iam_role.cluster.name
  policy = data.aws_iam_policy_document.cluster_secrets.json
}

# 73 USD a month; six times that once the version leaves standard support.
resource "aws_eks_cluster" "this" {
  name                          = var.name
  role_arn                      = aws_iam_role.cluster.arn
  version                       = var.kubernetes_version
  enabled_cluster_log_types     = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  bootstrap_self_managed_addons = false # all of them are below

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = false # var.admins says who
  }

  encryption_config {
    resources = ["secrets"]
    provider {
      key_arn = aws_kms_key.cluster.arn
    }
  }

  vpc_config {
    subnet_ids              = [for subnet in aws_subnet.private : subnet.id]
    endpoint_private_access = true
    endpoint_public_access  = length(var.public_access_cidrs) > 0
    public_access_cidrs     = length(var.public_access_cidrs) > 0 ? var.public_access_cidrs : null
  }

  depends_on = [
    aws_cloudwatch_log_group.cluster,
    aws_iam_role_policy.cluster_secrets,
    aws_iam_role_policy_attachment.cluster,
  ]
}

# The group that EKS makes for the control plane and all nodes. Karpenter finds it by the tag.
resource "aws_ec2_tag" "discovery" {
  resource_id = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  key         = "karpenter.sh/discovery"
  value       = var.name
}

resource "aws_eks_access_entry" "admin" {
  for_each = toset(var.admins)

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = each.key
}

resource "aws_eks_access_policy_association" "admin" {
  for_each = aws_eks_access_entry.admin

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = each.value.principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"

  access_scope {
    type = "cluster"
  }
}

# No versions: EKS takes its default for the cluster's version, and Terraform leaves it there.
# amazon-cloudwatch-observability is left out: Prometheus watches the cluster.
resource "aws_eks_addon" "for_nodes" {
  for_each = {
    eks-pod-identity-agent = null
    kube-proxy             = null
    # NetworkPolicies do nothing unless the CNI is told to keep them.
    vpc-cni = jsonencode({ enableNetworkPolicy = "true" })
  }

  cluster_name         = aws_eks_cluster.this.name
  addon_name           = each.key
  configuration_values = each.value

  dynamic "pod_identity_association" {
    for_each = each.key == "vpc-cni" ? ["aws-node"] : []
    content {
      service_account = pod_identity_association.value
      role_arn        = aws_iam_role.addon["vpc-cni"].arn
    }
  }

  depends_on = [aws_iam_role_policy_attachment.addon]
}

# Their pods need nodes to become ready.
resource "aws_eks_addon" "on_nodes" {
  for_each = toset(["aws-ebs-csi-driver", "aws-fsx-csi-driver", "coredns"])

  cluster_name = aws_eks_cluster.this.name
  addon_name   = each.key

  dynamic "pod_identity_association" {
    for_each = endswith(each.key, "-csi-driver") ? ["${split("-", each.key)[1]}-csi-controller-sa"] : []
    content {
      service_account = pod_identity_association.value
      role_arn        = aws_iam_role.addon[each.key].arn
    }
  }

  depends_on = [aws_eks_node_group.system, aws_iam_role_policy_attachment.addon]
}
