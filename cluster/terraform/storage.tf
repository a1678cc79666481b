data "aws_iam_policy_document" "data_key" {
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
  # FSx reads and writes the bucket by a role that it makes itself, and that has no say on the key otherwise.
  statement {
    sid       = "FSxThroughS3"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:CallerAccount"
      values   = [local.account]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
    condition {
      test     = "StringLike"
      variable = "aws:userid"
      values   = ["*:FSx"]
    }
  }
}

resource "aws_kms_key" "data" {
  description         = "${var.name}: buckets and the file system"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.data_key.json
}

resource "aws_kms_alias" "data" {
  name          = "alias/${var.name}-data"
  target_key_id = aws_kms_key.data.key_id
}

locals {
  # Of each bucket, for how many days what was overwritten or deleted can be had back.
  buckets = { data = 30, models = 180, langfuse = 30 }
}

# `terraform destroy` stops at buckets that hold anything, and that is meant.
resource "aws_s3_bucket" "this" {
  for_each = local.buckets

  bucket = "${var.name}-${each.key}"
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  rule {
    bucket_key_enabled = true # or each shard asks KMS, which is billed
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.data.arn
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  rule {
    id     = "leftovers"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = local.buckets[each.key]
    }
    expiration {
      expired_object_delete_marker = true
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "only_tls" {
  for_each = aws_s3_bucket.this

  statement {
    sid       = "OnlyTLS"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]
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

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this

  bucket     = each.value.id
  policy     = data.aws_iam_policy_document.only_tls[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_security_group" "lustre" {
  name        = "${var.name}-lustre"
  description = "FSx for Lustre"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-lustre" }
}

locals {
  # Clients and servers call each other, and servers each other. What workers send, the cluster's own group lets out.
  lustre_calls = { for pair in setproduct(["to servers", "to workers", "among servers"], [[988, 988], [1018, 1023]]) :
    "${pair[0]}, ${pair[1][0]}" => { way = pair[0], from_port = pair[1][0], to_port = pair[1][1] }
  }
}

resource "aws_vpc_security_group_ingress_rule" "lustre" {
  for_each = local.lustre_calls

  security_group_id            = each.value.way == "to workers" ? aws_security_group.workers.id : aws_security_group.lustre.id
  referenced_security_group_id = each.value.way == "to servers" ? aws_security_group.workers.id : aws_security_group.lustre.id
  description                  = "Lustre ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.from_port
  to_port                      = each.value.to_port
}

resource "aws_vpc_security_group_egress_rule" "lustre" {
  for_each = { for name, call in local.lustre_calls : name => call if call.way != "to servers" }

  security_group_id            = aws_security_group.lustre.id
  referenced_security_group_id = each.value.way == "to workers" ? aws_security_group.workers.id : aws_security_group.lustre.id
  description                  = "Lustre ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.from_port
  to_port                      = each.value.to_port
}

# One zone: training reads from the same. Pods of other zones may mount it too, at 0.01 USD for each GB.
resource "aws_fsx_lustre_file_system" "this" {
  deployment_type               = "PERSISTENT_2"
  file_system_type_version      = "2.15"
  storage_capacity              = var.fsx.capacity_gib
  per_unit_storage_throughput   = var.fsx.throughput_mb_s_tib
  subnet_ids                    = [aws_subnet.private[var.zones[0]].id]
  security_group_ids            = [aws_security_group.lustre.id]
  kms_key_id                    = aws_kms_key.data.arn
  weekly_maintenance_start_time = "7:03:00" # Sunday, UTC: it may interrupt for minutes
  tags                          = { Name = var.name }

  # A file system that is linked to a bucket has no backups; what must last is in the bucket.
  automatic_backup_retention_days = 0
  skip_final_backup               = true

  metadata_configuration {
    mode = "AUTOMATIC"
  }
}

# /data alone mirrors the bucket, both ways. The rest of the file system (base models, compiled kernels) stays local.
resource "aws_fsx_data_repository_association" "data" {
  file_system_id                   = aws_fsx_lustre_file_system.this.id
  file_system_path                 = "/data"
  data_repository_path             = "s3://${aws_s3_bucket.this["data"].id}"
  batch_import_meta_data_on_create = true

  s3 {
    auto_import_policy {
      events = ["NEW", "CHANGED", "DELETED"]
    }
    auto_export_policy {
      events = ["NEW", "CHANGED", "DELETED"]
    }
  }

  depends_on = [aws_s3_bucket_policy.this, aws_s3_bucket_server_side_encryption_configuration.this]
}
