# A tag says for ever the same: what was evaluated is what is served, and a rollback finds it. Only what lost its tag goes.
resource "aws_ecr_repository" "images" {
  for_each = toset(["train", "llm", "tts", "serve", "mlflow"])

  name                 = "rayapp/${each.key}"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
  }
}

resource "aws_ecr_lifecycle_policy" "images" {
  for_each = aws_ecr_repository.images

  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "what a push left behind"
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
      action       = { type = "expire" }
    }]
  })
}
