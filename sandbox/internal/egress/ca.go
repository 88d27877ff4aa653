package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// A CA vouches, inside one session only, for the names that the host serves or
// looks into.
// Its key is made with it, lives in memory and dies with it.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte

	mu     sync.Mutex
	leaves map[string]*tls.Config
}

// maxLeaves bounds the names whose certificates are kept. With wildcards a
// session can have many more names.
const maxLeaves = 256

// caLifetime is longer than sessions live. What makes the CA harmless is that
// nothing outside the session trusts it.
const caLifetime = 90 * 24 * time.Hour

// NewCA makes a CA whose certificates are valid from an hour before now, for
// clocks that differ.
func NewCA(now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("egress: CA key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Twinward session CA", SerialNumber: serial.Text(16)},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("egress: CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("egress: CA certificate: %w", err)
	}
	return &CA{
		cert:   cert,
		key:    key,
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		leaves: make(map[string]*tls.Config),
	}, nil
}

// PEM returns the certificate to add to the trust store of the session.
func (c *CA) PEM() []byte { return append([]byte(nil), c.pem...) }

// config serves TLS for one name and no other. The name was read from the same
// bytes before; it is compared again with what crypto/tls understood.
func (c *CA) config(name string) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.leaves[name]; t != nil {
		return t
	}
	leaf := sync.OnceValues(func() (*tls.Certificate, error) { return c.leaf(name) })
	t := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if asked, err := Canonical(h.ServerName); err != nil || asked != name {
				return nil, fmt.Errorf("egress: TLS for %q on a connection to %s", h.ServerName, name)
			}
			return leaf()
		},
	}
	if len(c.leaves) >= maxLeaves {
		clear(c.leaves) // those in use live on with their connections
	}
	c.leaves[name] = t
	return t
}

// leaf makes the certificate of a name.
func (c *CA) leaf(name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("egress: key for %s: %w", name, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		DNSNames:     []string{name},
		NotBefore:    c.cert.NotBefore,
		NotAfter:     c.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("egress: certificate for %s: %w", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key}, nil
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("egress: serial number: %w", err)
	}
	return n, nil
}
