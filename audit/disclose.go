package audit

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// A Disclosure shows what the arguments or the result in one record were, or one
// field, to somebody who has the record: [VerifyDisclosure]. Its JSON is what is
// handed over. It says nothing about any other record, and a field's nothing about
// the other fields but how many there are.
type Disclosure struct {
	// Seq is the number of the record.
	Seq uint64 `json:"seq"`
	// Field is the name of a member of the arguments, or empty for all of them.
	Field string `json:"field,omitempty"`
	// Value is the exact bytes, of the arguments or of the member's value.
	Value []byte `json:"value"`
	// Opening opens the commitment to Value.
	Opening []byte `json:"opening"`
	// Fields are the commitments to all fields in order, if one is disclosed.
	Fields [][]byte `json:"fields,omitempty"`
	// At is the place of the field among them.
	At int `json:"at,omitempty"`
}

// maxDisclosure is the largest size of a disclosure's JSON in bytes.
const maxDisclosure = 2*MaxValue + 64<<10

// Only returns the disclosure of one field. Of a nested field, the member that it
// is in is disclosed. It fails with [ErrDisclosure] unless d is of arguments that
// are an object with that field.
func (d Disclosure) Only(name string) (Disclosure, error) {
	fields, ok := objectFields(d.Value)
	at := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if !ok || at < 0 || len(d.Fields) > 0 || name == "" {
		return Disclosure{}, fmt.Errorf("%w: the arguments have no field %q that can be shown alone", ErrDisclosure, name)
	}
	return Disclosure{
		Seq: d.Seq, Field: name, Value: fields[at].raw, Opening: fieldOpening(d.Opening, name),
		Fields: fieldMACs(d.Opening, fields), At: at,
	}, nil
}

// ParseDisclosure reads the JSON of a disclosure.
func ParseDisclosure(text []byte) (Disclosure, error) {
	var d Disclosure
	if len(text) > maxDisclosure {
		return d, fmt.Errorf("%w: it is longer than %d bytes", ErrDisclosure, maxDisclosure)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Disclosure{}, fmt.Errorf("%w: %w", ErrDisclosure, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Disclosure{}, fmt.Errorf("%w: bytes after it", ErrDisclosure)
	}
	return d, nil
}

// VerifyDisclosure returns nil if what is disclosed is what the record commits
// to. The record is its line in the log: take it from a proof ([VerifyProof],
// [Proof.Record]) and the checkpoint vouches for it.
func VerifyDisclosure(d Disclosure, record []byte) error {
	r, err := parseRecord(record)
	c := r.Commitment()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrDisclosure, err)
	case r.Seq != d.Seq:
		return fmt.Errorf("%w: the record has number %d, the disclosure is of %d", ErrDisclosure, r.Seq, d.Seq)
	case c == nil:
		return fmt.Errorf("%w: record %d commits to nothing", ErrDisclosure, r.Seq)
	case len(d.Opening) != openingSize:
		return fmt.Errorf("%w: its opening has not %d bytes", ErrDisclosure, openingSize)
	}
	if len(d.Fields) == 0 {
		if d.Field != "" || d.At != 0 || !c.Matches(d.Value, d.Opening) {
			return fmt.Errorf("%w: record %d commits to something else", ErrDisclosure, r.Seq)
		}
		return nil
	}
	if len(d.Fields) > maxFields || d.At < 0 || d.At >= len(d.Fields) {
		return fmt.Errorf("%w: its fields", ErrDisclosure)
	}
	for _, m := range d.Fields {
		if len(m) != len(c.MAC) {
			return fmt.Errorf("%w: its fields", ErrDisclosure)
		}
	}
	f := field{d.Field, d.Value}
	if subtle.ConstantTimeCompare(fieldsRoot(d.Fields), c.Fields) != 1 ||
		subtle.ConstantTimeCompare(f.mac(d.Opening), d.Fields[d.At]) != 1 {
		return fmt.Errorf("%w: record %d commits to something else in the field %q", ErrDisclosure, r.Seq, d.Field)
	}
	return nil
}
