package flows

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keyring is what the applications prove themselves with, and the authority of their certificates.
type keyring struct {
	dir    string
	signer *rsa.PrivateKey
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	caPEM  string
	caFile string
}

// certificate is an application's, with its key.
type certificate struct {
	der          []byte
	key          *ecdsa.PrivateKey
	cert, keyPEM string
}

func newKeyring(dir string) (*keyring, error) {
	k := &keyring{dir: dir, caFile: filepath.Join(dir, "clients-ca.pem")}
	var err error
	if k.signer, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	if k.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 7),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.caKey.Public(), k.caKey)
	if err != nil {
		return nil, err
	}
	if k.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	k.caPEM = toPEM("CERTIFICATE", der)
	return k, os.WriteFile(k.caFile, []byte(k.caPEM), 0o600)
}

// certify makes an application's certificate; one that signs itself is vouched for by nobody.
func (k *keyring) certify(name string, itself bool) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 1),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, by := k.ca, k.caKey
	if itself {
		parent, by = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), by)
	if err != nil {
		return nil, err
	}
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &certificate{der: der, key: key, cert: toPEM("CERTIFICATE", der), keyPEM: toPEM("PRIVATE KEY", p8)}, nil
}

// thumbprint is the certificate's x5t#S256 (RFC 8705).
func (c *certificate) thumbprint() string {
	sum := sha256.Sum256(c.der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// private is the key that signs assertions and request objects, as PKCS #8 in base64.
func (k *keyring) private() (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	return base64.StdEncoding.EncodeToString(der), err
}

// registered is the JWK Set that an application registers: its certificate's key, or the key that signs for it.
func (k *keyring) registered(c *certificate) (map[string]any, error) {
	key := jose.JSONWebKey{Key: k.signer.Public(), KeyID: "app", Use: "sig", Algorithm: "RS256"}
	if c != nil {
		cert, err := x509.ParseCertificate(c.der)
		if err != nil {
			return nil, err
		}
		key = jose.JSONWebKey{Key: c.key.Public(), KeyID: "cert", Use: "sig", Certificates: []*x509.Certificate{cert}}
	}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}})
	if err != nil {
		return nil, err
	}
	var set map[string]any
	return set, json.Unmarshal(b, &set)
}

// file writes what the gateway reads of an application.
func (k *keyring) file(name string, content []byte) (string, error) {
	at := filepath.Join(k.dir, name)
	if err := os.WriteFile(at, content, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return at, nil
}

func toPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
