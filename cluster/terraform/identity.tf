# Who may do what. Pods get these roles by their service account; nothing holds a key.
locals {
  namespace = "rayapp"

  workloads = {
    development = { data = "write", models = "read" }
    synthesis   = { data = "write" }
    training    = { data = "read", models = "write" }
    serving     = { models = "read" }
    mlflow      = { models = "write" }
    langfuse    = { langfuse = "write" }
  }

  addon_policies = {
    aws-ebs-csi-driver = "service-role/AmazonEBSCSIDriverPolicy"
    aws-fsx-csi-driver = "AmazonFSxFullAccess"
    vpc-cni            = "AmazonEKS_CNI_Policy"
  }
}

data "aws_iam_policy_document" "trust_pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "workload" {
  for_each = local.workloads

  statement {
    sid       = "List"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [for bucket in keys(each.value) : aws_s3_bucket.this[bucket].arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for bucket in keys(each.value) : "${aws_s3_bucket.this[bucket].arn}/*"]
  }

  dynamic "statement" {
    for_each = contains(values(each.value), "write") ? ["Write"] : []
    content {
      sid       = statement.value
      actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:ListMultipartUploadParts", "s3:PutObject"]
      resources = [for bucket, access in each.value : "${aws_s3_bucket.this[bucket].arn}/*" if access == "write"]
    }
  }

  statement {
    sid       = "Key"
    actions   = contains(values(each.value), "write") ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]
    resources = [aws_kms_key.data.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "workload" {
  for_each = local.workloads

  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust_pods.json
}

resource "aws_iam_role_policy" "workload" {
  for_each = aws_iam_role.workload

  name   = "buckets"
  role   = each.value.name
  policy = data.aws_iam_policy_document.workload[each.key].json
}

resource "aws_eks_pod_identity_association" "workload" {
  for_each = aws_iam_role.workload

  cluster_name    = aws_eks_cluster.this.name
  namespace       = local.namespace
  service_account = each.key
  role_arn        = each.value.arn
}

resource "aws_iam_role" "addon" {
  for_each = local.addon_policies

  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust_pods.json
}

resource "aws_iam_role_policy_attachment" "addon" {
  for_each = local.addon_policies

  role       = aws_iam_role.addon[each.key].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.value}"
}

resource "aws_iam_role" "controller" {
  for_each = toset(["aws-load-balancer-controller", "karpenter"])

  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust_pods.json
}

resource "aws_eks_pod_identity_association" "controller" {
  for_each = aws_iam_role.controller

  cluster_name    = aws_eks_cluster.this.name
  namespace       = "kube-system"
  service_account = each.key
  role_arn        = each.value.arn
}

resource "aws_iam_role_policy" "controller" {
  for_each = {
    load-balancers      = ["aws-load-balancer-controller", data.aws_iam_policy_document.load_balancers.json]
    karpenter-discovery = ["karpenter", data.aws_iam_policy_document.karpenter_discovery.json]
    karpenter-nodes     = ["karpenter", data.aws_iam_policy_document.karpenter_nodes.json]
  }

  name   = each.key
  role   = aws_iam_role.controller[each.value[0]].name
  policy = each.value[1]
}
