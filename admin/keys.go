package admin

import (
	"net/http"
	"time"

	"understudy/keys"
)

// Keys is what is told of the backup's signing keys.
type Keys struct {
	Signer    string      `json:"signer"`              // of RSA signatures: "go" or "openssl 3.x.y"
	SignerWhy string      `json:"signerWhy,omitempty"` // why it is not OpenSSL's
	Keys      []keys.Info `json:"keys"`
}

func (s *Server) ring() (*keys.Ring, error) {
	if s.p.Keys == nil {
		return nil, unavailable("this process holds no signing keys, or their files did not open: see status, and ask the backup's process")
	}
	return s.p.Keys, nil
}

func (s *Server) keyState() *Keys {
	if s.p.Keys == nil {
		return nil
	}
	k := &Keys{Keys: s.p.Keys.List()}
	k.Signer, k.SignerWhy = s.p.Keys.Signer()
	return k
}

func (s *Server) keyList(*http.Request) (any, error) {
	if _, err := s.ring(); err != nil {
		return nil, err
	}
	return s.keyState(), nil
}

// keyRotate turns what is due now, and makes what is missing.
func (s *Server) keyRotate(r *http.Request) (any, error) {
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	if err := ring.Rotate(r.Context(), s.p.Now()); err != nil {
		return nil, unavailable("not every key was turned: %s", err)
	}
	return s.keyState(), nil
}

// RemoveKey ends one key at once.
type RemoveKey struct {
	ID string `json:"kid"`
}

// Done says what an act came to.
type Done struct {
	Text string `json:"text"`
}

func (s *Server) keyRemove(r *http.Request) (any, error) {
	var req RemoveKey
	if err := read(r, &req); err != nil {
		return nil, err
	}
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	for _, k := range ring.List() {
		if k.ID != req.ID {
			continue
		}
		if err := ring.Remove(keys.Fence{Tenant: k.Tenant, Issuer: k.Issuer}, k.ID); err != nil {
			return nil, unavailable("%s", err)
		}
		s.p.Log.Warn("a backup key is removed", "kid", k.ID, "tenant", k.Tenant, "issuer", k.Issuer)
		s.line(k.Tenant, &Revoke{Issuer: k.Issuer}, "key_removed", "operator")
		return Done{"key " + k.ID + " is removed; verifiers that hold the old key set believe it until they fetch the new one"}, nil
	}
	return nil, absent("there is no key %.80q: `understudy keys` lists them", req.ID)
}

// AcceptKeys ends the hold of keys that the primary no longer publishes.
type AcceptKeys struct {
	Tenant string `json:"tenant"`
	Issuer string `json:"issuer"`
}

func (s *Server) keyAccept(r *http.Request) (any, error) {
	var req AcceptKeys
	if err := read(r, &req); err != nil {
		return nil, err
	}
	if s.p.Gateway == nil {
		return nil, unavailable("this process has no gateway: ask one that has")
	}
	tenants, err := s.tenants(req.Tenant)
	if err != nil {
		return nil, err
	}
	n, known := 0, 0
	for _, t := range tenants {
		for _, is := range s.p.Gateway().IssuerStates(t) {
			if req.Issuer != "" && is.Issuer != req.Issuer {
				continue
			}
			known++
			k, err := s.p.Gateway().AcceptKeys(r.Context(), t, is.Issuer)
			if err != nil {
				return nil, unavailable("%s", err)
			}
			if n += k; k > 0 {
				s.p.Log.Warn("the primary's key set is accepted as it is", "tenant", t, "issuer", is.Issuer, "given up", k)
			}
		}
	}
	switch {
	case known == 0:
		return nil, absent("no such issuer is known: `understudy status` lists them")
	case n == 0:
		return Done{"no key was held"}, nil
	}
	return Done{"the primary's key set is accepted as it is"}, nil
}

// Resume lets a halted ramp go on.
type Resume struct {
	Tenant string `json:"tenant"`
}

func (s *Server) resume(r *http.Request) (any, error) {
	var req Resume
	if err := read(r, &req); err != nil {
		return nil, err
	}
	if s.p.Gateway == nil {
		return nil, unavailable("this process has no gateway: ask one that has")
	}
	tenants, err := s.tenants(req.Tenant)
	if err != nil {
		return nil, err
	}
	did := false
	for _, t := range tenants {
		did = s.p.Gateway().Resume(t) || did
	}
	if !did {
		return Done{"no ramp is halted"}, nil
	}
	return Done{"the ramp goes on at " + s.p.Now().Format(time.TimeOnly)}, nil
}
