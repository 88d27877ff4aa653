module github.com/twinward-dev/twinward/audit/otlp/internal/official

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	github.com/twinward-dev/twinward v0.0.0
	go.opentelemetry.io/proto/otlp v1.11.1
	google.golang.org/protobuf v1.36.12
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/mod v0.42.0 // indirect
)

replace github.com/twinward-dev/twinward => ../../../..
