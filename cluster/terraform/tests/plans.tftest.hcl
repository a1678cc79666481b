# What the configuration would make, on a provider that makes nothing: `terraform test` needs no account.
mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "000000000000" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::000000000000:role/mock" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-west-2:000000000000:key/mock" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:us-west-2:000000000000:mock" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "000000000000.dkr.ecr.us-west-2.amazonaws.com/rayapp/train" }
  }
  mock_resource "aws_fsx_lustre_file_system" {
    defaults = { id = "fs-0123456789", dns_name = "fs-1.fsx.us-west-2.amazonaws.com", mount_name = "abcdefgh", subnet_ids = ["subnet-b"] }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-1" }
  }
  mock_resource "aws_ec2_capacity_reservation" {
    defaults = { id = "cr-1" }
  }
}

override_resource {
  target = aws_security_group.lustre
  values = { id = "sg-lustre" }
}
override_resource {
  target = aws_subnet.private["us-west-2b"]
  values = { id = "subnet-b" }
}
override_resource {
  target = aws_s3_bucket.this["data"]
  values = { arn = "arn:aws:s3:::data" }
}
override_resource {
  target = aws_s3_bucket.this["models"]
  values = { arn = "arn:aws:s3:::models" }
}
override_resource {
  target = aws_s3_bucket.this["langfuse"]
  values = { arn = "arn:aws:s3:::langfuse" }
}

variables {
  name   = "rayapp-test"
  region = "us-west-2"
  zones  = ["us-west-2b", "us-west-2a", "us-west-2c"]
  admins = ["arn:aws:iam::000000000000:role/admin"]
}

run "settings_name_what_was_made" {
  assert {
    condition     = output.settings == <<-EOT
      CLUSTER_NAME=rayapp-test
      REGION=us-west-2
      REGISTRY=000000000000.dkr.ecr.us-west-2.amazonaws.com
      DATA_BUCKET=rayapp-test-data
      MODELS_BUCKET=rayapp-test-models
      LANGFUSE_BUCKET=rayapp-test-langfuse
      FSX_ID=fs-0123456789
      FSX_DNS=fs-1.fsx.us-west-2.amazonaws.com
      FSX_MOUNT=abcdefgh
      FSX_SUBNET=subnet-b
      FSX_SECURITY_GROUP=sg-lustre
      NODE_ROLE=rayapp-test-karpenter-node
      PLACEMENT_GROUP=rayapp-test-p4d
    EOT
    error_message = output.settings
  }
}

run "workloads_read_and_write_what_is_theirs" {
  assert {
    condition = jsonencode({
      for name, policy in data.aws_iam_policy_document.workload : name => sort(flatten([
        for statement in policy.statement : statement.resources if contains(statement.actions, "s3:PutObject")
      ]))
      }) == jsonencode({
      development = ["arn:aws:s3:::data/*"]
      langfuse    = ["arn:aws:s3:::langfuse/*"]
      mlflow      = ["arn:aws:s3:::models/*"]
      serving     = []
      synthesis   = ["arn:aws:s3:::data/*"]
      training    = ["arn:aws:s3:::models/*"]
    })
    error_message = "somebody else writes"
  }
  assert {
    condition = jsonencode({
      for name, policy in data.aws_iam_policy_document.workload : name => sort(flatten([
        for statement in policy.statement : statement.resources if contains(statement.actions, "s3:GetObject")
      ]))
      }) == jsonencode({
      development = ["arn:aws:s3:::data/*", "arn:aws:s3:::models/*"]
      langfuse    = ["arn:aws:s3:::langfuse/*"]
      mlflow      = ["arn:aws:s3:::models/*"]
      serving     = ["arn:aws:s3:::models/*"]
      synthesis   = ["arn:aws:s3:::data/*"]
      training    = ["arn:aws:s3:::data/*", "arn:aws:s3:::models/*"]
    })
    error_message = "somebody else reads"
  }
  assert {
    condition = jsonencode({ for association in concat(values(aws_eks_pod_identity_association.workload), values(aws_eks_pod_identity_association.controller)) :
      "${association.namespace}/${association.service_account}" => association.role_arn != "" }) == jsonencode({
      "rayapp/development"                       = true
      "rayapp/langfuse"                          = true
      "rayapp/mlflow"                            = true
      "rayapp/serving"                           = true
      "rayapp/synthesis"                         = true
      "rayapp/training"                          = true
      "kube-system/aws-load-balancer-controller" = true
      "kube-system/karpenter"                    = true
    })
    error_message = "the manifests' service accounts have other names"
  }
}

run "the_api_server_is_private_unless_told" {
  command = plan
  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "the API server can be reached from outside"
  }
}

run "one_nat_gateway_serves_all_zones" {
  command = plan
  assert {
    condition     = keys(aws_nat_gateway.this) == ["us-west-2b"] && length(aws_route.nat) == 3
    error_message = "not one NAT gateway"
  }
}

run "a_nat_gateway_in_each_zone" {
  command = plan
  variables {
    nat_per_zone = true
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_route.nat) == 3
    error_message = "not three NAT gateways"
  }
}

run "airgapped_has_no_way_out" {
  command = plan
  variables {
    airgapped = true
  }
  assert {
    condition = alltrue([for made in [
      aws_internet_gateway.this, aws_nat_gateway.this, aws_eip.nat, aws_subnet.public, aws_route_table.public, aws_route.nat,
    ] : length(made) == 0])
    error_message = "there is a way out"
  }
  assert {
    condition     = length(aws_vpc_endpoint.interface) > 0 && aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway"
    error_message = "there is no way to AWS either"
  }
}

run "reserved_nodes_are_found_by_their_tag" {
  variables {
    reserve_p4d_nodes = 2
    placement_group   = false
  }
  assert {
    condition     = aws_ec2_capacity_reservation.p4d[0].tags["karpenter.sh/discovery"] == "rayapp-test" && strcontains(output.settings, "PLACEMENT_GROUP=\n")
    error_message = output.settings
  }
  assert {
    condition     = aws_ec2_capacity_reservation.p4d[0].availability_zone == "us-west-2b"
    error_message = "reserved where the file system is not"
  }
}

run "a_capacity_block_is_found_by_its_tag" {
  variables {
    capacity_reservation_id = "cr-block"
  }
  assert {
    condition     = aws_ec2_tag.reservation[0].resource_id == "cr-block" && aws_ec2_tag.reservation[0].value == "rayapp-test" && length(aws_ec2_capacity_reservation.p4d) == 0
    error_message = output.settings
  }
}

run "what_cannot_be_is_refused" {
  command = plan
  variables {
    name                    = "Rayapp"
    zones                   = ["us-west-2a", "us-west-2a", "us-west-2b"]
    admins                  = []
    public_access_cidrs     = ["0.0.0.0/0"]
    vpc_cidr                = "10.0.0.0/20"
    airgapped               = true
    nat_per_zone            = true
    fsx                     = { capacity_gib = 1000, throughput_mb_s_tib = 200 }
    reserve_p4d_nodes       = 1
    capacity_reservation_id = "cr-block"
  }
  expect_failures = [
    var.name, var.zones, var.admins, var.public_access_cidrs, var.vpc_cidr, var.nat_per_zone, var.fsx,
    var.capacity_reservation_id,
  ]
}
