package argument

import (
	"errors"
	"fmt"
)

// Limits of what a tool returns, which may be larger than what it is given.
const (
	maxOutputNodes = 200_000
	maxOutputSteps = 1_000_000
)

// ErrOutput is wrapped by every reason why a result is not what its schema says.
var ErrOutput = errors.New("not what the output schema of the tool says")

// An Output is a compiled output schema. It is immutable.
type Output struct{ rule *rule }

// NewOutput compiles a schema. Keywords that rules do not know are left out of
// it; it returns them, "" if there are none.
func NewOutput(text []byte) (o *Output, left string, err error) {
	doc, err := parseSchema(text)
	if err != nil {
		return nil, "", err
	}
	c := ruler{doc: doc, made: map[*schema]*rule{}, left: map[string]bool{}}
	r, err := c.of(doc.root)
	if err != nil {
		return nil, "", err
	}
	return &Output{rule: r}, c.describe(), nil
}

// Check holds a value to the schema: strict JSON of at most 4 MiB, 200,000
// values and 64 levels.
func (o *Output) Check(value []byte) error {
	if err := checkStrictUpTo(value, maxOutputNodes); err != nil {
		return fmt.Errorf("%w: %w", ErrOutput, err)
	}
	c, steps := cursor{src: string(value)}, maxOutputSteps
	if f := o.rule.check(&c, &steps, 0); f != nil {
		return fmt.Errorf("%w: at %q: %w", ErrOutput, f.path, f.err)
	}
	return nil
}
