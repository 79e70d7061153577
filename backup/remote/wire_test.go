package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// caught is a backup that keeps what reached it.
type caught struct {
	Backup
	play    *flow.Play
	learned []*backup.Learned
	reply   *flow.Reply
	refusal *flow.Refusal
	err     error
	asked   []*flow.Play
	opens   []bool
}

func (c *caught) Opens(_ context.Context, ps []*flow.Play) ([]bool, error) {
	c.asked = ps
	return c.opens, c.err
}

func (c *caught) Play(_ context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	c.play = p
	return c.reply, c.refusal, c.err
}

func (c *caught) Learn(_ context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	c.learned = ls
	return make([]backup.Outcome, len(ls)), c.err
}

func drawID(t *rapid.T) (id session.ID) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	return id
}

// drawText draws any bytes: what clients send need not be UTF-8.
func drawText(t *rapid.T) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "text")) }

func drawTexts(t *rapid.T) (out []string) {
	for range rapid.IntRange(0, 4).Draw(t, "n") {
		out = append(out, drawText(t))
	}
	return out
}

func drawBytes(t *rapid.T) []byte { return rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "bytes") }

func TestMessagesArriveUnchanged(t *testing.T) {
	a := NewAuthority(t, t.TempDir())
	svc := &caught{}
	srv := StartServer(t, a, "", svc)
	cl, _ := StartClient(t, a, srv.Addr, t.TempDir())
	rapid.Check(t, func(rt *rapid.T) {
		p := &flow.Play{
			ID: drawText(rt), Tenant: drawText(rt), Issuer: drawText(rt), Flow: drawText(rt),
			Client:   flow.Proof{ID: drawText(rt), Method: drawText(rt), SecretID: drawID(rt)},
			Artifact: session.ArtifactKeys{Kind: session.Kind(drawText(rt)), Lookup: drawID(rt), Key: drawBytes(rt), Ends: rapid.Int64().Draw(rt, "ends")},
			Scope:    drawTexts(rt), Resource: drawTexts(rt), Facts: session.Facts{Address: drawText(rt), UserAgent: drawText(rt), Origin: drawText(rt)},
			Received: rapid.Int64().Draw(rt, "received"), Outage: rapid.Int64().Draw(rt, "outage"), Trigger: drawText(rt), Shadow: rapid.Bool().Draw(rt, "shadow"),
		}
		svc.reply, svc.refusal = nil, nil
		if rapid.Bool().Draw(rt, "answered") {
			svc.reply = &flow.Reply{Status: rapid.IntRange(200, 499).Draw(rt, "status"), Header: http.Header{"X-A": drawTexts(rt)}, Body: drawBytes(rt), Fill: drawText(rt), Grant: drawID(rt)}
		} else {
			svc.refusal = &flow.Refusal{Code: drawText(rt), Status: rapid.IntRange(400, 599).Draw(rt, "status"), Error: drawText(rt), Definite: rapid.Bool().Draw(rt, "definite")}
		}
		reply, no, err := cl.Play(context.Background(), p)
		if err != nil || !reflect.DeepEqual(reply, svc.reply) || !reflect.DeepEqual(no, svc.refusal) {
			rt.Fatalf("answer %+v %+v %v\nwant   %+v %+v", reply, no, err, svc.reply, svc.refusal)
		}
		if !reflect.DeepEqual(p, svc.play) {
			rt.Fatalf("play\n%+v\n%+v", p, svc.play)
		}
		svc.opens = rapid.SliceOfN(rapid.Bool(), 1, session.MaxOpened).Draw(rt, "opens")
		asked := slices.Repeat([]*flow.Play{p}, len(svc.opens))
		if opens, err := cl.Opens(context.Background(), asked); err != nil || !slices.Equal(opens, svc.opens) || !reflect.DeepEqual(asked, svc.asked) {
			rt.Fatalf("opens %v %v, want %v; asked %+v", opens, err, svc.opens, svc.asked)
		}
		l := &backup.Learned{
			Tenant: drawText(rt), Issuer: drawText(rt), Flow: drawText(rt), Sent: rapid.Int64().Draw(rt, "sent"), Interactive: rapid.Bool().Draw(rt, "interactive"),
			Presented: drawID(rt), Sealed: session.Sealed{Record: drawID(rt), Data: drawBytes(rt), Doors: []session.SealedDoor{{
				Kind: session.Kind(drawText(rt)), Lookup: drawID(rt), Wrapped: drawBytes(rt), Ends: rapid.Int64().Draw(rt, "doorends"),
			}}},
			Client: drawID(rt), Subject: drawID(rt), Session: drawID(rt), ClientAuth: drawText(rt), SecretID: drawID(rt), Unlearned: drawText(rt), HabitKey: drawID(rt),
			Replaced: []session.ID{drawID(rt)}, Shape: &session.Shape{Members: []string{drawText(rt)}, IDToken: &session.TokenShape{Header: []string{drawText(rt)}, Claims: []string{drawText(rt)}, JTI: drawText(rt)}},
		}
		if _, err := cl.Learn(context.Background(), []*backup.Learned{l}); err != nil || len(svc.learned) != 1 || !reflect.DeepEqual(l, svc.learned[0]) {
			rt.Fatalf("learned (%v)\n%+v\n%+v", err, l, svc.learned)
		}
	})
	svc.opens = []bool{true, true}
	if opens, err := cl.Opens(context.Background(), []*flow.Play{{}}); err == nil || opens != nil {
		t.Errorf("an answer to another question says %v", opens)
	}
	// The spool keeps them unchanged too.
	svc.err = errors.New("a disk is full at /var/lib/secret-place")
	l := NewSignIn(t).Learned(t, "a\xff", "b\xfe", time.Now())
	l.Tenant = "not\xffutf8"
	if outs, err := cl.Learn(context.Background(), []*backup.Learned{l}); err != nil || outs[0].Unlearned != "spooled" {
		t.Fatal(outs, err)
	}
	if got, err := cl.spool.lesson(cl.spool.learned[0]); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("from the spool (%v)\n%+v\n%+v", err, got, l)
	}
	if opens, err := cl.Opens(context.Background(), []*flow.Play{{}}); err == nil || opens != nil {
		t.Errorf("a failure says %v", opens)
	}
	// Errors travel as codes.
	_, _, err := cl.Play(context.Background(), &flow.Play{})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeFailed || strings.Contains(err.Error(), "secret") {
		t.Errorf("a failure arrives as %v", err)
	}
}

// writer is a ResponseWriter that knows deadlines.
type writer struct{ *httptest.ResponseRecorder }

func (writer) SetReadDeadline(time.Time) error { return nil }

func serveBody(h http.Handler, method, path string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.ProtoMajor, r.ProtoMinor, r.Proto = 2, 0, "HTTP/2.0"
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	r.Header.Set("Content-Type", contentType)
	w := writer{httptest.NewRecorder()}
	h.ServeHTTP(w, r)
	return w.ResponseRecorder
}

func TestMessagesThatAreNone(t *testing.T) {
	c := newCodec()
	h := NewHandler(StartService(t), Quiet())
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	deep := append(append([]byte{0xa1, 0x18, 0x63}, bytes.Repeat([]byte{0x81}, 20)...), 0)
	for _, x := range []struct {
		name, method, path string
		body               []byte
		status             int
		code               string
	}{
		{"an unknown method", "POST", "/v1/steal", unhex("a0"), 404, CodeUnknownMethod},
		{"another version", "POST", "/v2/ping", unhex("a0"), 404, CodeUnknownMethod},
		{"a path below", "POST", "/v1/ping/", unhex("a0"), 404, CodeUnknownMethod},
		{"GET", "GET", "/v1/standing", nil, 405, CodeBadMessage},
		{"no body", "POST", "/v1/standing", nil, 400, CodeBadMessage},
		{"null", "POST", "/v1/play", unhex("f6"), 400, CodeBadMessage},
		{"an array", "POST", "/v1/play", unhex("80"), 400, CodeBadMessage},
		{"two items", "POST", "/v1/standing", unhex("a0a0"), 400, CodeBadMessage},
		{"a cut item", "POST", "/v1/standing", unhex("a200"), 400, CodeBadMessage},
		{"a member twice", "POST", "/v1/standing", unhex("a2006161006162"), 400, CodeBadMessage},
		{"indefinite length", "POST", "/v1/standing", unhex("bfff"), 400, CodeBadMessage},
		{"a tag", "POST", "/v1/standing", unhex("a100c0613a"), 400, CodeBadMessage},
		{"depth", "POST", "/v1/play", deep, 400, CodeBadMessage},
		{"another type", "POST", "/v1/standing", unhex("a10005"), 400, CodeBadMessage},
		{"a length that is a lie", "POST", "/v1/learn", unhex("a1009b7fffffffffffffff"), 400, CodeBadMessage},
		{"over the cap", "POST", "/v1/standing", bytes.Repeat([]byte{0xa0}, smallMessage+1), 413, CodeTooLarge},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := serveBody(h, x.method, x.path, x.body)
			var a errorAnswer
			if w.Code != x.status || c.decode(w.Body.Bytes(), &a) != nil || a.Code != x.code {
				t.Errorf("status %d, code %q", w.Code, a.Code)
			}
		})
	}
	t.Run("more requests than one question may have", func(t *testing.T) {
		b, err := c.encode(opensMessage{make([]flow.Play, session.MaxOpened+1)})
		if err != nil {
			t.Fatal(err)
		}
		if w := serveBody(h, "POST", "/v1/opens", b); w.Code != 400 {
			t.Errorf("status %d", w.Code)
		}
	})
	t.Run("more exchanges than one message may have", func(t *testing.T) {
		b, err := c.encode(learnMessageBody{make([]backup.Learned, maxLearned+1)})
		if err != nil {
			t.Fatal(err)
		}
		if w := serveBody(h, "POST", "/v1/learn", b); w.Code != 400 {
			t.Errorf("status %d", w.Code)
		}
	})
}

func FuzzServer(f *testing.F) {
	c := newCodec()
	s := NewSignIn(f)
	names := []string{methodPing, methodPlay, methodLearn, methodStanding, methodRefused, methodStep, methodMarkGrant, methodMark, methodKeys,
		methodOpens, methodHeld, methodBarred, methodSignedOut, methodUntold}
	for i, v := range []any{
		pingMessage{}, s.Play("rt"), learnMessageBody{[]backup.Learned{*s.Learned(f, "", "rt", time.Now())}}, standingMessage{"acme", s.Keys("rt").Lookup},
		backup.Refused{Tenant: "acme", Lookup: s.Keys("rt").Lookup, Error: "invalid_grant", Sent: 1}, stepMessage{"acme", s.Keys("rt").Lookup, 1, session.Successor{State: session.Pending}},
		backup.GrantMark{Tenant: "acme", Lookup: s.Keys("rt").Lookup, At: 1, Cause: "logout", Told: true, Session: true}, markMessageBody{"acme", []session.Mark{{Of: session.OfSubject, Final: true, At: 1}}},
		keysMessage{"acme", "https://id.test", nil}, opensMessage{[]flow.Play{*s.Play("rt")}}, standingMessage{"acme", s.Keys("rt").Lookup},
		backup.SignIn{Tenant: "acme", Issuer: "https://id.test"}, backup.SignOut{Tenant: "acme", Issuer: "https://id.test", SID: "sid-1", Clients: []string{"spa"}},
		untoldMessage{"acme"},
	} {
		b, err := c.encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	h := NewHandler(StartService(f), Quiet())
	f.Fuzz(func(t *testing.T, i uint8, body []byte) {
		w := serveBody(h, http.MethodPost, pathPrefix+names[int(i)%len(names)], body)
		switch w.Code {
		case 200, 400, 413, 500:
		default:
			t.Fatalf("status %d", w.Code)
		}
		if w.Code != 200 {
			var a errorAnswer
			if c.decode(w.Body.Bytes(), &a) != nil || a.Code == "" {
				t.Fatal("a refusal without a code")
			}
		}
		// What is taken as a message is written as the same message.
		var p, again flow.Play
		if c.decode(body, &p) == nil {
			b, err := c.encode(p)
			if err != nil || c.decode(b, &again) != nil || !reflect.DeepEqual(p, again) && len(p.Scope)+len(p.Resource) > 0 {
				t.Fatalf("%v: %+v is not %+v", err, p, again)
			}
		}
	})
}
