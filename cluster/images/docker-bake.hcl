variable "REGISTRY" {
  default = "localhost"
}

variable "VERSION" {
  default = "0.1.0"
}

# Speaking and serving need the same today; by two names, each is rolled out and back by itself.
target "default" {
  name       = image
  matrix     = { image = ["train", "llm", "tts", "serve", "mlflow"] }
  dockerfile = "cluster/images/Dockerfile"
  args       = { ENVIRONMENT = { train = "train", llm = "llm", tts = "platform", serve = "platform", mlflow = "mlflow" }[image] }
  tags       = ["${REGISTRY}/rayapp/${image}:${VERSION}"]
  platforms  = ["linux/amd64"]
}
