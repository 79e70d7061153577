package oauth

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"understudy/flow"
	"understudy/session"
)

const (
	issuer   = "https://id.example.com"
	formBody = "application/x-www-form-urlencoded"
	plain    = "grant_type=refresh_token&refresh_token=rt-1&client_id=spa"
)

// post is a request to the token endpoint as the gateway reads it. header holds names and values; an empty value
// removes a name.
func post(body string, header ...string) *flow.Request {
	h := httptest.NewRequest("POST", "/token", strings.NewReader(body))
	h.Header = http.Header{"Content-Type": {formBody}, "Accept": {"application/json"}, "User-Agent": {"app/1"}}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			h.Header.Del(header[i])
		} else {
			h.Header.Add(header[i], header[i+1])
		}
	}
	r := &flow.Request{HTTP: h, Body: []byte(body), Tenant: "t", Issuer: issuer, Endpoint: flow.Token, Address: "192.0.2.1"}
	r.Form, r.FormErr = url.ParseQuery(body)
	return r
}

func set(r *flow.Request, f func(*http.Request)) *flow.Request {
	f(r.HTTP)
	return r
}

func basicAuth(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

func TestClientAuthentication(t *testing.T) {
	const body = "grant_type=refresh_token&refresh_token=rt-1"
	for _, c := range []struct {
		rule       string
		r          *flow.Request
		want       flow.Credentials
		unplayable string
	}{
		{"public client", post(body + "&client_id=spa"), flow.Credentials{ID: "spa", Method: "none"}, ""},
		{"an empty client_secret is none", post(body + "&client_id=spa&client_secret="), flow.Credentials{ID: "spa", Method: "none"}, ""},
		{"client_secret_post", post(body + "&client_id=web&client_secret=s%26"), flow.Credentials{ID: "web", Method: "client_secret_post", Secret: "s&"}, ""},
		{"client_secret_basic", post(body, "Authorization", basicAuth("web:s")), flow.Credentials{ID: "web", Method: "client_secret_basic", Secret: "s"}, ""},
		{"basic, encoded as RFC 6749 asks", post(body, "Authorization", basicAuth("we%3Ab:s%2B+x")), flow.Credentials{ID: "we:b", Method: "client_secret_basic", Secret: "s+ x"}, ""},
		{"basic, not encoded", post(body, "Authorization", basicAuth("web:50%")), flow.Credentials{ID: "web", Method: "client_secret_basic", Secret: "50%"}, ""},
		{"basic, and the same client_id", post(body+"&client_id=web", "Authorization", basicAuth("web:s")), flow.Credentials{ID: "web", Method: "client_secret_basic", Secret: "s"}, ""},

		{"no client", post(body), flow.Credentials{}, "no_client"},
		{"two clients that disagree", post(body+"&client_id=other", "Authorization", basicAuth("web:s")), flow.Credentials{ID: "web"}, "two_credentials"},
		{"two secrets", post(body+"&client_id=web&client_secret=s", "Authorization", basicAuth("web:s")), flow.Credentials{ID: "web"}, "two_credentials"},
		{"two Authorization headers", post(body, "Authorization", basicAuth("web:s"), "Authorization", basicAuth("web:t")), flow.Credentials{}, "repeated_credentials"},
		{"two secrets in the body", post(body + "&client_id=web&client_secret=s&client_secret=t"), flow.Credentials{ID: "web"}, "repeated_credentials"},
		{"two clients in the body", post(body + "&client_id=web&client_id=spa"), flow.Credentials{ID: "web"}, "repeated_credentials"},
		{"an assertion", post(body + "&client_id=web&client_assertion_type=x&client_assertion=y"), flow.Credentials{ID: "web", Method: "private_key_jwt"}, "client_assertion"},
		{"an assertion beside a secret", post(body+"&client_assertion=y", "Authorization", basicAuth("web:s")), flow.Credentials{Method: "private_key_jwt"}, "client_assertion"},
		{"a bearer token", post(body+"&client_id=web", "Authorization", "Bearer x"), flow.Credentials{ID: "web"}, "authorization_scheme"},
		{"basic without a secret", post(body, "Authorization", basicAuth("web:")), flow.Credentials{}, "authorization_scheme"},
		{"basic that is none", post(body+"&client_id=web", "Authorization", "Basic !"), flow.Credentials{ID: "web"}, "authorization_scheme"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			a := Refresh{}.Match(c.r).Ask()
			if a.Client != c.want || a.Unplayable != c.unplayable {
				t.Errorf("%+v, unplayable %q", a.Client, a.Unplayable)
			}
		})
	}
}

// Whatever could not be checked again, or may mean something else to the primary, is neither played nor learned.
func TestNeitherPlayedNorLearned(t *testing.T) {
	reply := response(refreshReply)
	for _, c := range []struct {
		rule string
		r    *flow.Request
		want string
	}{
		{"a plain request is both", post(plain), ""},
		{"a DPoP proof, which is verified before it counts", post(plain, "Dpop", "x"), ""},
		{"two DPoP proofs", set(post(plain), func(h *http.Request) { h.Header["Dpop"] = []string{"x", "y"} }), "dpop"},
		{"a client certificate", set(post(plain), func(h *http.Request) {
			h.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
		}), "client_certificate"},
		{"a certificate that a proxy saw (RFC 9440)", post(plain, "Client-Cert", ":x:"), "client_certificate"},
		{"Envoy's", post(plain, "X-Forwarded-Client-Cert", "Hash=1"), "client_certificate"},
		{"nginx's", post(plain, "Ssl-Client-Cert", "x"), "client_certificate"},
		{"a header that would pass as plain", post(plain, "X-Client-Cert", "x"), "client_certificate"},
		{"client attestation", post(plain, "OAuth-Client-Attestation", "x"), "client_attestation"},
		{"a signed request", post(plain, "Signature", "x"), "client_attestation"},
		{"two refresh tokens", post(plain + "&refresh_token=rt-2"), "repeated_parameters"},
		{"two scopes", post(plain + "&scope=a&scope=b"), "repeated_parameters"},
		{"two grant types", post(plain + "&grant_type=authorization_code"), "repeated_parameters"},
		{"another refresh token in the query", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "refresh_token=rt-2" }), "ambiguous_parameters"},
		{"a client in the query", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "client_id=other" }), "ambiguous_parameters"},
		{"a query that cannot be read", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "a;b" }), "ambiguous_parameters"},
		{"a query of something else is only odd", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "p=policy" }), ""},
		{"a request id in the query is only odd", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "client-request-id=1&client_info=1" }), ""},
		{"MSAL for Node's request id, in both places", set(post(plain+"&client-request-id=1"), func(h *http.Request) { h.URL.RawQuery = "client-request-id=1" }), ""},
		{"something else in both places", set(post(plain+"&x=1"), func(h *http.Request) { h.URL.RawQuery = "client-request-id=1&x=2" }), "ambiguous_parameters"},
		{"semicolons that a primary may take for ampersands", post(plain + "&x=1;refresh_token=rt-2"), "ambiguous_parameters"},
		{"a broken escape", post(plain + "&x=%zz"), "ambiguous_parameters"},
		{"two content types", post(plain, "Content-Type", "application/json"), "ambiguous_parameters"},
		{"JSON", post(plain, "Content-Type", "", "Content-Type", "application/json"), "ambiguous_parameters"},
		{"another character set", post(plain, "Content-Type", "", "Content-Type", formBody+"; charset=utf-16"), "ambiguous_parameters"},
		{"a password among the grant types", post(plain + "&grant_type=password"), "password"},
		{"a password in the query", set(post(plain), func(h *http.Request) { h.URL.RawQuery = "grant_type=password" }), "password"},
		{"a password beside credentials that disagree", post(plain+"&grant_type=password&client_secret=s", "Authorization", basicAuth("web:s")), "password"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			x := Refresh{}.Match(c.r)
			if got := x.Ask().Unplayable; got != c.want {
				t.Errorf("unplayable %q, want %q", got, c.want)
			}
			if got := x.Learn(reply).Unlearned; got != c.want {
				t.Errorf("unlearned %q, want %q", got, c.want)
			}
		})
	}
}

func TestRequestsThatAskForMoreAreNotPlayed(t *testing.T) {
	for _, c := range []struct{ more, want string }{
		{"&claims=" + url.QueryEscape(`{"access_token":{"xms_cc":{"values":["cp1"]}}}`), ""},
		{"&claims=", ""},
		{"&claims=" + url.QueryEscape(`{"access_token":{"nbf":{"essential":true,"value":"1"}}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"access_token":{"xms_cc":{},"nbf":{}}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"id_token":{"signin_state":{"essential":false},"login_hint":{"essential":false},"tenant_region_sub_scope":{"essential":false}}}`), ""},
		{"&claims=" + url.QueryEscape(`{"id_token":{"nickname":null},"access_token":{"xms_cc":{"values":["cp1"]}}}`), ""},
		{"&claims=" + url.QueryEscape(`{"id_token":{"email":{"essential":true}}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"id_token":{"email":{"value":"a@b"}}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"id_token":{"auth_time":null}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"other":{}}`), "claims"},
		{"&claims=" + url.QueryEscape(`{"access_token":{"xms_cc":{}},"id_token":{"acr":null}}`), "claims"},
		{"&claims=x", "claims"},
		{"&authorization_details=%5B%5D", "authorization_details"},
		{"&acr_values=mfa", "acr_values"},
		{"&organization=o", "organization"},
		{"&token_type=pop&req_cnf=x", "token_type"},
		{"&requested_token_type=x", "requested_token_type"},
	} {
		a := Refresh{}.Match(post(plain + c.more)).Ask()
		if a.Unplayable != c.want {
			t.Errorf("%s: %q, want %q", c.more, a.Unplayable, c.want)
		}
	}
}

// Law 1: only a plain request is answered at once where its failure could be the requester's doing.
func TestPlainRequests(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	query := func(q string) *flow.Request {
		return set(post(plain), func(h *http.Request) { h.URL.RawQuery = q })
	}
	accept := func(v string) *flow.Request { return post(plain, "Accept", "", "Accept", v) }
	ctype := func(v string) *flow.Request { return post(plain, "Content-Type", "", "Content-Type", v) }
	for _, c := range []struct {
		rule string
		r    *flow.Request
		want string
	}{
		{"x/oauth2", post(plain, "Accept", "", "Accept-Encoding", "gzip"), ""},
		{"MSAL Go", post(plain+"&client_info=1&scope=openid+offline_access", "X-Client-Sku", "MSAL.Go", "X-Client-Os", "linux", "Client-Request-Id", "1b2c", "Return-Client-Request-Id", "false", "X-Ms-Lib-Capability", "retry-after, h429"), ""},
		{"msal-node", post(plain + "&x-client-SKU=msal.js.node&x-client-VER=3.0.0&x-app-name=&x-app-ver=&client-request-id=1&x-client-current-telemetry=5%7C861"), ""},
		{"axios", accept("application/json, text/plain, */*"), ""},
		{"a browser", post(plain, "Origin", "https://app.example.com", "Referer", "https://app.example.com/", "Sec-Fetch-Mode", "cors", "Accept-Language", "de-DE,de;q=0.9,*;q=0.1", "Cookie", "a=b; c=d"), ""},
		{"a charset of its own", ctype(formBody + ";charset=UTF-8"), ""},

		{"Accept: text/html", accept("text/html"), "accept"},
		{"Accept: HTML among others", accept("application/json, TEXT/HTML;q=0.1"), "accept"},
		{"Accept: an image", accept("image/png"), "accept"},
		{"Accept: anything of text", accept("text/*"), "accept"},
		{"Accept: not JSON", accept("application/json;q=0, */*"), "accept"},
		{"Accept twice", post(plain, "Accept", "application/json"), "headers"},
		{"%00 in a value", post(plain + "&scope=a%00"), "parameters"},
		{"another control character", post(plain + "&scope=a%0d%0a"), "parameters"},
		{"bytes that are no UTF-8", post(plain + "&scope=%ff%fe"), "parameters"},
		{"letters beyond ASCII", post(plain + "&scope=%C3%A9"), "parameters"},
		{"an unknown parameter", post(plain + "&x=y"), "parameters"},
		{"a known one in another case", post(plain + "&Scope=a"), "parameters"},
		{"a known one with %00 in its name", post(plain + "&scope%00=a"), "parameters"},
		{"duplicate parameters", post(plain + "&scope=a&scope=a"), "parameters"},
		{"many empty pairs", post(plain + strings.Repeat("&", 1000)), "parameters"},
		{"a long parameter", post(plain + "&scope=" + long(2049)), "parameters"},
		{"a broken escape", post(plain + "&scope=%zz"), "parameters"},
		{"a query", query("x=y"), "query"},
		{"a request id in the query", query("client-request-id=0aF-9"), ""},
		{"two of them", query("client-request-id=1&client-request-id=2"), "query"},
		{"one that is none", query("client-request-id=%00"), "query"},
		{"a long one", query("client-request-id=" + long(65)), "query"},
		{"no content type", post(plain, "Content-Type", ""), "content_type"},
		{"two content types", post(plain, "Content-Type", formBody), "content_type"},
		{"two in one header", ctype(formBody + ", application/json"), "content_type"},
		{"JSON", ctype("application/json"), "content_type"},
		{"multipart", ctype("multipart/form-data; boundary=x"), "content_type"},
		{"another character set", ctype(formBody + "; charset=utf-16"), "content_type"},
		{"a character set that is none", ctype(formBody + "; charset=%00"), "content_type"},
		{"another parameter of the type", ctype(formBody + "; boundary=x"), "content_type"},
		{"an unknown header", post(plain, "X-Debug", "1"), "headers"},
		{"a known one twice", post(plain, "Origin", "https://a", "Origin", "https://b"), "headers"},
		{"a huge one", post(plain, "User-Agent", long(513)), "headers"},
		{"many of a known beginning", post(plain, manyHeaders()...), "headers"},
		{"all huge together", post(plain, "Cookie", long(8000), "Referer", "https://"+long(1000)), "headers"},
		{"bytes in one", post(plain, "Origin", "https://\xff"), "headers"},
		{"a control character in one", post(plain, "Origin", "https://a\x01"), "headers"},
		{"quotes in a cookie", post(plain, "Cookie", `a="b`), "headers"},
		{"a language that is none", post(plain, "Accept-Language", "de_\\"), "headers"},
		{"an encoding that forbids all", post(plain, "Accept-Encoding", "identity; q=0, *;q=0"), "headers"},
		{"Expect", post(plain, "Expect", "100-continue"), "headers"},
		{"Content-Encoding", post(plain, "Content-Encoding", "gzip"), "headers"},
		{"X-HTTP-Method-Override", post(plain, "X-Http-Method-Override", "GET"), "headers"},
		{"trailers", set(post(plain), func(h *http.Request) { h.Trailer = http.Header{"X": nil} }), "headers"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := (Refresh{}).Match(c.r).Ask().Odd; got != c.want {
				t.Errorf("odd %q, want %q", got, c.want)
			}
		})
	}
}

func manyHeaders() (out []string) {
	for c := 'a'; c <= 'z'; c++ {
		for d := 'a'; d <= 'b'; d++ {
			out = append(out, "X-App-"+string(c)+string(d), strings.Repeat("v", 250))
		}
	}
	return out
}

func TestWhatIsMatched(t *testing.T) {
	if x := (Refresh{}).Match(post("grant_type=authorization_code&code=c&client_id=spa")); x != nil {
		t.Error("another grant is a refresh")
	}
	if x := (Refresh{}).Match(set(post(plain), func(h *http.Request) { h.Method = "GET" })); x != nil {
		t.Error("a GET is a refresh")
	}
	r := post(plain)
	r.Form = nil
	if (Refresh{}).Match(r) != nil || (Grant{}).Match(r) != nil {
		t.Error("what is no form is matched")
	}
	a := Refresh{}.Match(post("grant_type=refresh_token&client_id=spa&scope=a++b&resource=r1&audience=r2")).Ask()
	if a.Unplayable != "no_refresh_token" || strings.Join(a.Scope, "|") != "a|b" || strings.Join(a.Resource, "|") != "r1|r2" {
		t.Errorf("%+v", a)
	}
	x := Grant{}.Match(post("grant_type=authorization_code&code=c&client_id=spa"))
	if a := x.Ask(); a.Unplayable == "" {
		t.Errorf("another grant may be played: %+v", a)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{plain, plain + "&scope=a%00", plain + ";x=y", plain + "&claims=%7B%7D", "grant_type=refresh_token&&&=&", "%zz"} {
		f.Add(s, formBody, "application/json", "Basic d2ViOnM=", "")
	}
	f.Add(plain, formBody+"; charset=utf-16", "text/html;q=0", "Bearer", "a;b=c")
	f.Fuzz(func(t *testing.T, body, contentType, accept, authorization, query string) {
		r := &flow.Request{
			HTTP: &http.Request{Method: "POST", URL: &url.URL{RawQuery: query}, Header: http.Header{
				"Content-Type": {contentType}, "Accept": {accept}, "Authorization": {authorization},
			}},
			Body: []byte(body), Issuer: issuer,
		}
		r.Form, r.FormErr = url.ParseQuery(body)
		(Grant{}).Match(r)
		x := (Refresh{}).Match(r)
		if x == nil {
			return
		}
		a := x.Ask()
		if a.Odd == "" {
			for i := range len(body) {
				if body[i] < 0x20 || body[i] > 0x7e {
					t.Errorf("a plain request has the byte %#x", body[i])
				}
			}
		}
		if a.Unplayable == "" && (a.Artifact.Kind != session.RefreshToken || a.Artifact.Value == "" || a.Client.ID == "") {
			t.Errorf("playable without an artifact or a client: %+v", a)
		}
	})
}
