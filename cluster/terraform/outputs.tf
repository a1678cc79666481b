output "settings" {
  description = "What the manifests need to know: terraform output -raw settings > ../manifests/overlays/eks-prod/settings/settings.env"
  value       = <<-EOT
    CLUSTER_NAME=${aws_eks_cluster.this.name}
    REGION=${var.region}
    REGISTRY=${split("/", aws_ecr_repository.images["train"].repository_url)[0]}
    DATA_BUCKET=${aws_s3_bucket.this["data"].bucket}
    MODELS_BUCKET=${aws_s3_bucket.this["models"].bucket}
    LANGFUSE_BUCKET=${aws_s3_bucket.this["langfuse"].bucket}
    FSX_ID=${aws_fsx_lustre_file_system.this.id}
    FSX_DNS=${aws_fsx_lustre_file_system.this.dns_name}
    FSX_MOUNT=${aws_fsx_lustre_file_system.this.mount_name}
    FSX_SUBNET=${aws_fsx_lustre_file_system.this.subnet_ids[0]}
    FSX_SECURITY_GROUP=${aws_security_group.lustre.id}
    NODE_ROLE=${aws_iam_role.node["karpenter"].name}
    PLACEMENT_GROUP=${join("", aws_placement_group.p4d[*].name)}
  EOT
}

output "vpc_id" {
  description = "The load balancer controller is told: pods cannot ask the node."
  value       = aws_vpc.this.id
}
