package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// ear hears what clients, gateway and primary say to one another, and keeps every artifact.
type ear struct {
	mu        sync.Mutex        // guards what follows
	artifacts map[string]string // value → what it is
	claims    map[string]string // what tokens and UserInfo say of a person → the claim
	logged    map[string]bool   // claim=value of what the sign-in log documents
	public    map[string]bool   // metadata and keys, as published
}

func newEar() *ear {
	return &ear{artifacts: map[string]string{}, claims: map[string]string{}, logged: map[string]bool{}, public: map[string]bool{}}
}

// secretParameters are those of a query, a fragment, a form or a JSON reply whose values are artifacts.
func secretParameters() []string {
	return []string{
		"code", "refresh_token", "access_token", "id_token", "id_token_hint", "token", "client_secret", "code_verifier", "password", "session_code",
	}
}

// personalClaims are what a token says of a person.
func personalClaims() []string {
	return []string{"sub", "sid", "email", "name", "given_name", "family_name", "preferred_username", "groups"}
}

// loggedClaims are the members of the sign-in log that a token's claims stand in (docs/audit.md), and which.
func loggedClaims() map[string][]string {
	return map[string][]string{"issuer": {"iss"}, "client": {"aud", "azp"}, "subject": {"sub"}, "session": {"sid"}}
}

// hear takes an exchange apart.
func (e *ear) hear(r *http.Request, body []byte, reply http.Header, replyBody []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range r.Header["Cookie"] {
		for c := range strings.SplitSeq(line, ";") {
			e.cookie(c)
		}
	}
	for _, line := range reply["Set-Cookie"] {
		c, _, _ := strings.Cut(line, ";")
		e.cookie(c)
	}
	if scheme, v, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
		e.artifact(scheme+" credentials", v)
		if _, secret, ok := r.BasicAuth(); ok {
			secret, _ = url.QueryUnescape(secret)
			e.artifact("client_secret", secret)
		}
	}
	e.parameters(r.URL.RawQuery)
	e.parameters(string(body))
	if to, err := url.Parse(reply.Get("Location")); err == nil {
		e.parameters(to.RawQuery)
		e.parameters(to.EscapedFragment())
	}
	var o map[string]any
	if json.Unmarshal(replyBody, &o) != nil {
		return
	}
	if _, keys := o["keys"]; r.Method == http.MethodGet && (keys || o["jwks_uri"] != nil) {
		e.public[string(replyBody)] = true
	}
	e.person(o) // UserInfo
	for _, name := range secretParameters() {
		if v, ok := o[name].(string); ok {
			e.artifact(name, v)
		}
	}
}

func (e *ear) cookie(c string) {
	name, v, _ := strings.Cut(strings.TrimSpace(c), "=")
	e.artifact("cookie "+name, strings.Trim(v, `"`))
}

func (e *ear) parameters(form string) {
	q, _ := url.ParseQuery(form)
	for _, name := range secretParameters() {
		for _, v := range q[name] {
			e.artifact(name, v)
		}
	}
}

func (e *ear) artifact(what, v string) {
	if v == "" || e.artifacts[v] != "" {
		return
	}
	e.artifacts[v] = what
	for _, text := range opened(v) {
		var o map[string]any
		if json.Unmarshal([]byte(text), &o) == nil {
			e.person(o)
		}
	}
}

func (e *ear) person(o map[string]any) {
	for name, value := range o {
		values, ok := value.([]any)
		if !ok {
			values = []any{value}
		}
		for _, v := range values {
			s, ok := v.(string)
			if !ok || s == "" {
				continue
			}
			if slices.Contains(personalClaims(), name) {
				e.claims[s] = name
			}
			e.logged[name+"="+s] = true
		}
	}
}

// of returns the artifacts of a kind.
func (e *ear) of(what string) []string {
	var out []string
	for v, w := range e.artifacts {
		if w == what {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

// over is a transport that the ear hears.
func (e *ear) over(t http.RoundTripper) http.RoundTripper { return overheard{e, t} }

type overheard struct {
	e *ear
	t http.RoundTripper
}

func (o overheard) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		body = b
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(b))
	}
	resp, err := o.t.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(reply))
	o.e.hear(r, body, resp.Header, reply)
	return resp, nil
}

// piece is how much of a secret must not be found anywhere.
const piece = 12

// form is a way in which a text may have been written down.
type form struct{ how, text string }

// forms are a text as it is, in base64 at each of the three places where a text in front of it may put it, in hex and
// URL-escaped.
func forms(s string) []form {
	out := []form{{"as it is", s}, {"hex", hex.EncodeToString([]byte(s))}, {"HEX", strings.ToUpper(hex.EncodeToString([]byte(s)))}}
	for _, enc := range []struct {
		how string
		*base64.Encoding
	}{{"base64", base64.RawStdEncoding}, {"base64url", base64.RawURLEncoding}} {
		for shift, shared := range []int{0, 2, 3} { // characters that the text in front has a part in
			b := enc.EncodeToString(append(make([]byte, shift), s...))
			if (shift+len(s))%3 != 0 {
				b = b[:len(b)-1] // so has the text behind
			}
			if len(b) > shared {
				out = append(out, form{enc.how, b[shared:]})
			}
		}
	}
	for _, x := range []string{url.QueryEscape(s), url.PathEscape(s)} {
		if x != s {
			out = append(out, form{"URL-escaped", x})
		}
	}
	return out
}

// opened are the texts that are written in an artifact: of a token its header and its claims.
func opened(artifact string) []string {
	var out []string
	for part := range strings.SplitSeq(artifact, ".") {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil && len(b) >= piece {
			out = append(out, string(b))
		}
	}
	return out
}

// needles are pieces of secrets in every form, found at once.
type needles struct {
	at     map[string]uint16 // piece → index into what
	what   []string
	known  map[string]uint16
	sizes  []int    // of pieces, shorter than piece where the whole is
	filter []uint64 // bits: whether a piece begins so
	public int      // pieces that were taken out again
}

func newNeedles() *needles {
	return &needles{at: map[string]uint16{}, known: map[string]uint16{}, filter: make([]uint64, 1<<20)}
}

const shortest = 5 // bytes of a needle: a shorter one is found by chance

func bit(b []byte) (int, uint64) {
	h := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32
	h *= 0x9E3779B97F4A7C15
	return int(h >> 44), 1 << (h >> 38 & 63)
}

// windows calls f with each piece of a text; with the whole where it is shorter.
func windows(s string, f func(string)) {
	if len(s) < piece {
		f(s)
		return
	}
	for i := range len(s) - piece + 1 {
		f(s[i : i+piece])
	}
}

// add makes a text's pieces needles.
func (n *needles) add(what, s string) {
	for _, f := range forms(s) {
		name := what + ", " + f.how
		id, ok := n.known[name]
		if !ok {
			id = uint16(len(n.what))
			n.known[name], n.what = id, append(n.what, name)
		}
		windows(f.text, func(w string) {
			if _, ok := n.at[w]; ok || len(w) < shortest {
				return
			}
			n.at[w] = id
			i, b := bit([]byte(w[:shortest]))
			n.filter[i] |= b
			if !slices.Contains(n.sizes, len(w)) {
				n.sizes = append(n.sizes, len(w))
			}
		})
	}
}

// publish takes the pieces of a published text out again.
func (n *needles) publish(s string) {
	for _, f := range forms(s) {
		windows(f.text, func(w string) {
			if _, ok := n.at[w]; ok {
				delete(n.at, w)
				n.public++
			}
		})
	}
}

// find calls f with every needle in a haystack.
func (n *needles) find(hay []byte, f func(at int, what string)) {
	for i := range len(hay) - shortest + 1 {
		if w, b := bit(hay[i:]); n.filter[w]&b == 0 {
			continue
		}
		for _, size := range n.sizes {
			if i+size > len(hay) {
				continue
			}
			if id, ok := n.at[string(hay[i:i+size])]; ok {
				f(i, n.what[id])
			}
		}
	}
}
