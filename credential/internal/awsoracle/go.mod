module github.com/twinward-dev/twinward/credential/internal/awsoracle

go 1.26.0

require (
	github.com/aws/aws-sdk-go-v2 v1.48.0
	github.com/twinward-dev/twinward v0.0.0
)

require (
	github.com/aws/smithy-go v1.28.9 // indirect
	golang.org/x/mod v0.42.0 // indirect
)

replace github.com/twinward-dev/twinward => ../../..
