// Package flow says what a sign-in pattern is: how it is recognised and learned at the gateway, and how it is answered
// in the backup.
//
// A flow knows both halves of its part and nothing else. It cannot reach backup, gateway or store: it never sees a
// record before client authentication, artifact match, revocation and policy have passed, because only then is there a
// [Permit].
package flow

import (
	"net/http"
	"net/url"
	"time"

	"understudy/session"
)

// Endpoint is a class of the primary's endpoints, as its metadata names them.
type Endpoint string

const (
	Token         Endpoint = "token"
	Authorization Endpoint = "authorization"
	Pushed        Endpoint = "pushed_authorization_request"
	UserInfo      Endpoint = "userinfo"
	Introspection Endpoint = "introspection"
	Revocation    Endpoint = "revocation"
	EndSession    Endpoint = "end_session"
	Discovery     Endpoint = "discovery"
	JWKS          Endpoint = "jwks"
	// Other is everything that is only passed through: pages, scripts, administration.
	Other Endpoint = "other"
)

// Flow is one sign-in pattern.
type Flow interface {
	// Name is stable: it is in the audit log, the metrics and the coverage table.
	Name() string
	// Endpoint is where requests of this flow arrive.
	Endpoint() Endpoint
	// Match parses r once and returns nil where it is no request of this flow.
	Match(r *Request) Exchange
	// Answer makes the reply that the primary would have given, from a record that may go on. It runs in the backup.
	Answer(p *Permit) (*Reply, *Refusal)
}

// Exchange is one request of a flow, at the gateway. It holds secrets and never leaves it.
type Exchange interface {
	// Ask is what the request presents and wants.
	Ask() *Ask
	// Learn reads the primary's successful reply. A nil Lesson means there is nothing to remember and nothing to count.
	Learn(r *Response) *Lesson
}

// Request is a buffered request at a protocol endpoint.
type Request struct {
	HTTP     *http.Request
	Body     []byte
	Form     url.Values // of the body only, as leniently as a primary might read it; nil where it cannot be read at all
	FormErr  error      // what could not be read; such a request is neither played nor learned
	Tenant   string
	Issuer   string
	Endpoint Endpoint
	Address  string // the client's, honest
	// Pushed is set where an authorization request was pushed by its client (RFC 9126), Signed where its client signed it (RFC
	// 9101): Form is what it said there. Referenced is set beside Signed where that lay at a URL (RFC 9101, section 5.2).
	Pushed, Signed, Referenced bool
	// Certificate came with the request; zero: none did.
	Certificate Certificate
}

// Certificate is a client certificate whose key the client has shown to hold (RFC 8705).
type Certificate struct {
	// Method is how its client authenticates where it shows nothing else: tls_client_auth or self_signed_tls_client_auth.
	Method     string
	Thumbprint string // x5t#S256
	// Unusable is set where one came that nobody vouches for, or that is not valid now: what the primary makes of it does not
	// show.
	Unusable bool
}

// Response is a buffered successful reply of the primary.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	Object session.Object // Body, or what the JWT that it is says, where it was parsed already; nil: it was not. It is not changed.
	Token  *session.Token // Body, where it is a JWT; nobody has verified it
	Sent   time.Time      // when the request was sent
}

// Ask is what a request presents and wants. The zero Artifact means that the flow cannot be played for this request.
type Ask struct {
	Client   Credentials
	Artifact Artifact
	Scope    []string // nil: not asked for
	Resource []string // resource and audience parameters
	// Presented are the members that belong to the artifact alone (exp, iat, nbf, jti of a JWT), where the answer has them.
	Presented session.Object
	// Unplayable says why the request cannot be answered by the backup although the flow is known.
	Unplayable string
	// Subject is a token on whose behalf the client asks (RFC 8693, RFC 7523); nobody has verified it. SubjectRefused is the error
	// code of one that is not valid.
	Subject, SubjectRefused string
	// Own says why a request that presents something of the backup's own making cannot be answered, where that is another
	// question than Unplayable.
	Own string
	// Door is what a browser asks for at an application, exactly; nil: the request is none of a browser's.
	Door []string
	// AnyPort is Door for whatever port of the person's own machine the answer goes to (RFC 8252, section 7.3); nil: it goes
	// elsewhere.
	AnyPort []string
	// Params are parameters of the request that the answer depends on.
	Params map[string]string
	// Odd says why the request is not a plain one: unknown or repeated parameters, forms or sizes beyond what is approved.
	Odd string
}

// Credentials is a client authentication as presented.
type Credentials struct {
	ID     string
	Method string // RFC 7591 token_endpoint_auth_method: "none", "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", …
	Secret string
	// Assertion is a client assertion (RFC 7523, section 2.2); nobody has verified it.
	Assertion string
	// DPoP is set where a proof of possession comes with the request (RFC 9449); nobody has verified it.
	DPoP bool
	// Certificate is the x5t#S256 of the client certificate that came with the request (RFC 8705); "": none.
	Certificate string
}

// Certified says whether a certificate is all that the client proves itself with.
func (c Credentials) Certified() bool {
	return c.Method == "tls_client_auth" || c.Method == "self_signed_tls_client_auth"
}

// Artifact is something that a client holds.
type Artifact struct {
	Kind  session.Kind
	Value string
	Ends  time.Time // its own end at the primary; zero: not told
}

// Lesson is what a reply taught, in the clear; the gateway seals it.
type Lesson struct {
	Record      *session.Record
	Artifacts   []Artifact // what opens the record from now on
	Presented   *Artifact  // what it was obtained with, nil for a first grant
	Interactive bool       // the exchange ended a sign-in, interactive where AuthTime does not say otherwise
	AuthTime    int64      // when the person signed in, Unix seconds (OpenID Connect Core, section 2); 0: not told
	Shape       *session.Shape
	// Habit names what the shape is of; "": the replies to the record's client and scope.
	Habit string
	// NotBefore is a time, in Unix seconds, before which the primary no longer honours what it issued to this client for
	// this subject; 0: it named none.
	NotBefore int64
	// DPoP is set where what was given is bound to the key of the request's DPoP proof.
	DPoP bool
	// Signed is the JWT that the reply came in, and Class that of the key which signs such a reply; nil: it came in none. Nobody has
	// verified it.
	Signed *session.Token
	Class  string
	// Beside is what else the reply gave, and goes on by itself; nil: nothing.
	Beside *Lesson
	// Unlearned says why nothing may be remembered ("password", "dpop", …). It is counted and shown.
	Unlearned string
}

// Play is the request to the backup: everything that it needs, and no artifact. It can be sent to another process.
type Play struct {
	ID       string               `cbor:"0,keyasint"` // of the request, for the logs of both
	Tenant   string               `cbor:"1,keyasint"`
	Issuer   string               `cbor:"2,keyasint"`
	Flow     string               `cbor:"3,keyasint"`
	Client   Proof                `cbor:"4,keyasint"`
	Artifact session.ArtifactKeys `cbor:"5,keyasint"`
	Scope    []string             `cbor:"6,keyasint,omitempty"`
	Resource []string             `cbor:"7,keyasint,omitempty"`
	Facts    session.Facts        `cbor:"8,keyasint"`
	Received int64                `cbor:"9,keyasint"`  // Unix nanoseconds
	Outage   int64                `cbor:"10,keyasint"` // when it began
	Trigger  string               `cbor:"11,keyasint"` // the rule of the failure table, "breaker", "shadow", …
	Shadow   bool                 `cbor:"12,keyasint"` // compute, deliver nothing
	// Presented are members that belong to the presented artifact alone.
	Presented session.Object `cbor:"13,keyasint,omitempty"`
	// Params are parameters of the request that the answer depends on.
	Params map[string]string `cbor:"14,keyasint,omitempty"`
	// Token is an access token of the primary's that is asked about; the gateway has verified its signature.
	Token *session.Token `cbor:"15,keyasint,omitempty"`
	// Behalf is on whose behalf the client asks; nil: for itself, or as who it presents an artifact of.
	Behalf *Behalf `cbor:"16,keyasint,omitempty"`
	// Doubt is set where the primary failed for this request alone, so far as is known: it must be as the approved one was.
	Doubt bool `cbor:"17,keyasint,omitempty"`
}

// Behalf is a token on whose behalf a client asks; the gateway has verified its signature and its times.
type Behalf struct {
	Token  *session.Token `cbor:"0,keyasint"`
	Lookup session.ID     `cbor:"1,keyasint"`
}

// Proof is a client authentication, derived: the secret stays at the gateway.
type Proof struct {
	ID       string     `cbor:"0,keyasint"`
	Method   string     `cbor:"1,keyasint"`
	SecretID session.ID `cbor:"2,keyasint"` // of the secret, the key that signed the assertion, or the certificate; zero for a public client
	// Vouched is set where the primary has just authenticated the client.
	Vouched bool `cbor:"3,keyasint,omitempty"`
	// Once stands for an assertion that the client's registered key signed and that may be used once until Until (Unix
	// nanoseconds); the gateway has verified it. Empty: there was none.
	Once  []byte `cbor:"4,keyasint,omitempty"`
	Until int64  `cbor:"5,keyasint,omitempty"`
	// JKT is the thumbprint of the key that the client has proved to possess (RFC 9449, section 6.1); Possessed stands for that
	// proof, which may be used once until PossessedUntil (Unix nanoseconds); the gateway has verified it. Empty: there was none.
	JKT            string `cbor:"6,keyasint,omitempty"`
	Possessed      []byte `cbor:"7,keyasint,omitempty"`
	PossessedUntil int64  `cbor:"8,keyasint,omitempty"`
	// Certificate is the x5t#S256 of the client certificate whose key the client has shown to hold (RFC 8705); "": none.
	Certificate string `cbor:"9,keyasint,omitempty"`
	// Fresh is set where the proof of possession has a nonce that is good now (RFC 9449, section 8).
	Fresh bool `cbor:"10,keyasint,omitempty"`
}

// Permit is what a flow answers from. Only backup makes one, after every check has passed.
type Permit struct {
	Play   *Play
	Record *session.Record
	Habit  *session.Habit
	Now    time.Time
	Ends   time.Time // of the presented artifact; zero: not told
	// Bound are the parameters of the authorization request that the presented code answers.
	Bound map[string]string
	// HabitOf returns what is known under a name of the flow's own (see [Lesson.Habit]).
	HabitOf func(name string) (*session.Habit, error)
	// UserInfo returns what the primary said at the UserInfo endpoint for this sign-in, and when it was asked (Unix nanoseconds);
	// the error wraps [session.ErrNoRecord] where it was not.
	UserInfo func() (told *session.Record, at int64, err error)
	// Sign signs a JWT of the class with the backup key for its issuer and algorithm, and sets alg and kid where the
	// header has them.
	Sign func(class string, header, claims session.Object) (string, error)
	// Opaque makes an opaque token of a look.
	Opaque func(look session.Look) string
	// Fill stands in the body for the presented artifact; the gateway puts it there.
	Fill string
}

// Reply is the backup's answer.
type Reply struct {
	Status int         `cbor:"0,keyasint"`
	Header http.Header `cbor:"1,keyasint"`
	Body   []byte      `cbor:"2,keyasint"`
	Fill   string      `cbor:"3,keyasint"` // where the presented artifact stands in Body; "" for nowhere
	Grant  session.ID  `cbor:"4,keyasint"`
	Issued []Issued    `cbor:"-"` // stays in the backup
	// Post is set where the reply is a page that posts a form to the application: the gateway draws it.
	Post *Post `cbor:"5,keyasint,omitempty"`
}

// Post is an authorization response in the OAuth 2.0 Form Post Response Mode.
type Post struct {
	Action     string      `cbor:"0,keyasint"`
	Parameters [][2]string `cbor:"1,keyasint"`
}

// Issued is a token that the backup made and must recognise.
type Issued struct {
	Kind  session.Kind
	Value string
	Ends  time.Time
	// Bound are the parameters of the request that a code answers.
	Bound map[string]string
}

// Token classes; a backup key signs no other.
const (
	ClassAccessToken = "access_token"
	ClassIDToken     = "id_token"
	// ClassAuthorizationResponse is an authorization response in a JWT (JARM).
	ClassAuthorizationResponse = "authorization_response"
	// ClassUserInfo is a UserInfo response in a JWT (OpenID Connect Core, section 5.3.2).
	ClassUserInfo = "userinfo"
	// ClassIntrospection is an introspection response in a JWT (RFC 9701).
	ClassIntrospection = "introspection"
)

// Refusal says why the backup gives no answer, in a stable code, and what the client is told.
type Refusal struct {
	Code   string `cbor:"0,keyasint"` // documented in docs/audit.md
	Status int    `cbor:"1,keyasint"`
	Error  string `cbor:"2,keyasint"` // OAuth 2.0 error code
	// Definite is true where the primary would certainly refuse too: the client is told so even though the primary
	// could not be asked.
	Definite bool `cbor:"3,keyasint"`
}

// Demands says whether it is no refusal but a demand: that the request comes again, with a nonce of ours in its proof of possession
// (RFC 9449, section 8).
func (r *Refusal) Demands() bool { return r.Error == "use_dpop_nonce" }

// NotNow is the refusal of what cannot be answered at the moment and may be asked again.
func NotNow(code string) *Refusal {
	return &Refusal{Code: code, Status: http.StatusServiceUnavailable, Error: "temporarily_unavailable"}
}

// No is a refusal in the protocol's words that a retry does not change.
func No(code string, status int, oauthError string) *Refusal {
	return &Refusal{Code: code, Status: status, Error: oauthError, Definite: true}
}
