package audit

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// A value is the arguments of one record, kept outside the log. This file is
// about its bytes:
//
//	key of a value = HMAC-SHA256(data key, "twinward audit value v1\n" + salt)
//	sealed         = AES-256-GCM(key of the value, nonce 0, opening + arguments,
//	                 bound to the commitment in the record)
//
// The salt is that of the commitment, random and used once, so each key encrypts
// one value and needs no nonce. A data key belongs to one pair of agent and user,
// and to one month of one process; it is stored wrapped by the [KEK].

const (
	openingSize = 32
	saltSize    = 16
	valueWord   = "twinward audit value v1\n"
	dataKeyWord = "twinward audit data key v1\n"
	fieldWord   = "twinward audit field v1\n"
	fieldsWord  = "twinward audit fields v1\n"

	// maxFields bounds the members of arguments that can be disclosed one by one.
	maxFields = 256
	// maxValueLine bounds a line of a file of values.
	maxValueLine = (MaxValue+openingSize+16)*4/3 + 256
)

// A valueLine is one value in its file. Its field "salt" finds it, "key" is the
// id of its data key.
type valueLine struct {
	Salt   []byte `json:"salt"`
	Key    string `json:"key"`
	Sealed []byte `json:"sealed"`
}

// appendValueLine appends what parseValueLine reads, with a newline.
func appendValueLine(dst []byte, v valueLine) []byte {
	dst = append(dst, `{"salt":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, v.Salt)
	dst = append(dst, `","key":"`...)
	dst = append(dst, v.Key...)
	dst = append(dst, `","sealed":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, v.Sealed)
	return append(dst, "\"}\n"...)
}

// parseValueLine reads a line without its newline. There is one spelling of each.
func parseValueLine(line []byte) (v valueLine, err error) {
	if len(line) > maxValueLine {
		return v, errors.New("not a value: too long")
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return v, fmt.Errorf("not a value: %w", err)
	}
	if len(v.Salt) != saltSize || !isKeyID(v.Key) || !bytes.Equal(appendValueLine(nil, v), append(bytes.Clone(line), '\n')) {
		return v, errors.New("not a value")
	}
	return v, nil
}

// A keyLine is one data key in its file, wrapped.
type keyLine struct {
	ID      string    `json:"id"` // random, 16 hexadecimal digits
	Made    time.Time `json:"made"`
	Agent   string    `json:"agent"`
	User    string    `json:"user"`
	KEK     string    `json:"kek"` // its id
	Wrapped []byte    `json:"wrapped"`
}

func (k keyLine) encode() ([]byte, error) {
	enc, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if enc = visible.JSON(enc); len(enc) > MaxRecord {
		return nil, fmt.Errorf("%w: the actor's names", ErrTooLarge)
	}
	return append(enc, '\n'), nil
}

func parseKeyLine(line []byte) (k keyLine, err error) {
	if len(line) > MaxRecord {
		return k, errors.New("not a data key: too long")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&k); err != nil {
		return k, fmt.Errorf("not a data key: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF || !isKeyID(k.ID) || len(k.Wrapped) == 0 {
		return k, errors.New("not a data key")
	}
	return k, nil
}

// bound is what a data key's wrapping is bound to.
func (k keyLine) bound() []byte {
	b := []byte(dataKeyWord + k.ID)
	for _, s := range []string{k.Agent, k.User} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

func isKeyID(s string) bool {
	_, err := strconv.ParseUint(s, 16, 64)
	return err == nil && len(s) == 16
}

// keepTo commits to args that are kept, and returns the opening too.
func keepTo(args []byte) (*Commitment, []byte) {
	c := &Commitment{Len: len(args), Salt: make([]byte, saltSize), Kept: true}
	opening := make([]byte, openingSize)
	rand.Read(c.Salt)
	rand.Read(opening)
	c.MAC = mac(opening, args)
	if fields, ok := objectFields(args); ok {
		c.Fields = fieldsRoot(fieldMACs(opening, fields))
	}
	return c, opening
}

// bound is what a sealed value is bound to: nobody can pass one off as another's.
func (c Commitment) bound() []byte {
	b := append([]byte(valueWord), c.Salt...)
	b = append(b, c.MAC...)
	b = append(b, c.Fields...)
	return binary.BigEndian.AppendUint64(b, uint64(c.Len))
}

func valueAEAD(dataKey []byte, c Commitment) cipher.AEAD {
	block, err := aes.NewCipher(mac(dataKey, append([]byte(valueWord), c.Salt...)))
	if err != nil {
		panic(err) // the size is a constant
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

var onlyNonce [12]byte

// seal encrypts the value that c commits to.
func (c Commitment) seal(dataKey, opening, args []byte) []byte {
	text := append(append(make([]byte, 0, len(opening)+len(args)+16), opening...), args...)
	return valueAEAD(dataKey, c).Seal(text[:0], onlyNonce[:], text, c.bound())
}

// unseal returns what was sealed, if it is what c commits to.
func (c Commitment) unseal(dataKey, sealed []byte) (opening, args []byte, err error) {
	text, err := valueAEAD(dataKey, c).Open(nil, onlyNonce[:], sealed, c.bound())
	if err != nil || len(text) < openingSize {
		return nil, nil, errors.New("it is not the value that was sealed for this record")
	}
	opening, args = text[:openingSize], text[openingSize:]
	if !c.Matches(args, opening) {
		return nil, nil, errors.New("it is not the value that the record commits to")
	}
	return opening, args, nil
}

// A field is a member of an object, as it was written.
type field struct {
	name string
	raw  []byte
}

// objectFields returns the members of args, if they are one object whose members
// have different names and are not too many.
func objectFields(args []byte) ([]field, bool) {
	dec := json.NewDecoder(bytes.NewReader(args))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	var fields []field
	names := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		var raw json.RawMessage
		if err != nil || !ok || names[name] || len(fields) == maxFields || dec.Decode(&raw) != nil {
			return nil, false
		}
		names[name] = true
		fields = append(fields, field{name, raw})
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, false
	}
	_, err := dec.Token()
	return fields, err == io.EOF
}

// fieldOpening opens the commitment to one field and to no other.
func fieldOpening(opening []byte, name string) []byte {
	return mac(opening, []byte(fieldWord+name))
}

func (f field) mac(opening []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(f.name)))
	return mac(opening, append(append(b, f.name...), f.raw...))
}

func fieldMACs(opening []byte, fields []field) [][]byte {
	macs := make([][]byte, len(fields))
	for i, f := range fields {
		macs[i] = f.mac(fieldOpening(opening, f.name))
	}
	return macs
}

// fieldsRoot commits to all fields. The MACs are of one length each.
func fieldsRoot(macs [][]byte) []byte {
	h := sha256.New()
	h.Write([]byte(fieldsWord))
	for _, m := range macs {
		h.Write(m)
	}
	return h.Sum(nil)
}
