package idptest

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// KeycloakClientKey is the key of the client "jwtc" of Keycloak's realms, which proves itself with private_key_jwt.
func KeycloakClientKey() (*rsa.PrivateKey, error) {
	b, err := os.ReadFile(filepath.Join(keycloakDir(), "jwtc.key"))
	if err != nil {
		return nil, fmt.Errorf("read the client's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("the client's key is no PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the client's key: %w", err)
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the client's key is not an RSA key")
	}
	return key, nil
}
