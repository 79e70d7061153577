package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	os.Exit(m.Run())
}

// TestQuick runs the figures that need nothing but Go, in tiny sizes. It asserts that every row is there and that every
// reply was right (a wrong one ends a figure with an error), and nothing about time.
func TestQuick(t *testing.T) {
	o, err := parse([]string{"-quick"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := run(context.Background(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.Figure+" "+r.Name)
		if r.Value <= 0 || r.Unit == "" || r.Bar == "" || r.Holds == nil {
			t.Errorf("a row without value, unit or bar: %+v", r)
		}
	}
	want := []string{
		"P2 refresh grants in an outage, ES256",
		"P3 a page of 2 KB, passed through", "P3 a learned token response",
		"P5 look-up and open, random, p50", "P5 look-up and open, random, p99", "P5 memory of the process that looks up", "P5 reopen",
		"P6 sealed records written, durable", "P6 learning one token response, sealing and writing included",
		"P9 silent authorization and code redemption in an outage, RS256-2048 with Go's RSA",
		"P10 client_credentials grants in an outage, RS256-2048 with Go's RSA",
		"P11 introspection of a backup's opaque token in an outage", "P11 UserInfo of a backup's opaque token in an outage",
		"P12 a login's pages: HTML, script and image",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	page, err := fill(readPage(t), rows, "here")
	if err != nil {
		t.Error(err)
	}
	for _, r := range rows {
		if !strings.Contains(page, "| "+r.Name+" |") {
			t.Errorf("the page lacks %q", r.Name)
		}
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(pagePathOf())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPage: every figure has its place in the page, and is replaced there and nowhere else.
func TestPage(t *testing.T) {
	page := readPage(t)
	for _, f := range figures() {
		row := newRow("a name that is nowhere else", 1, "s").atMost(2)
		row.Figure = f.name
		once, err := fill(page, []Row{row}, "here")
		if err != nil {
			t.Fatal(err)
		}
		twice, err := fill(once, []Row{row}, "here")
		if err != nil {
			t.Fatal(err)
		}
		if once != twice || strings.Count(once, row.Name) != 1 {
			t.Errorf("%s is not replaced", f.name)
		}
		from, to := strings.Index(once, begins(f.name)), strings.Index(once, ends(f.name))
		if at := strings.Index(once, row.Name); at < from || at > to {
			t.Errorf("%s is written outside of its markers", f.name)
		}
	}
}

// TestRowJSON: the members that the command promises, null where there is nothing.
func TestRowJSON(t *testing.T) {
	for name, c := range map[string]struct {
		row  Row
		want string
	}{
		"without a bar": {newRow("a", 1234.56, "µs"), `{"figure":"","name":"a","value":1235,"unit":"µs","bar":"","holds":null,"limit":null,"peers":{}}`},
		"all of it": {newRow("a", 2, "s").limited(1).atMost(1.5).beside("p", 3).noted("n"),
			`{"figure":"","name":"a","value":2,"unit":"s","bar":"<= 1.5","holds":false,"limit":1,"peers":{"p":3},"note":"n"}`},
		"a bar from below": {newRow("a", 2, "s").atLeast(2), `{"figure":"","name":"a","value":2,"unit":"s","bar":">= 2","holds":true,"limit":null,"peers":{}}`},
	} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(c.row); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(b.String()); got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}

// TestWrongRepliesEndALoad: none of these may be counted as an answer.
func TestWrongRepliesEndALoad(t *testing.T) {
	jwt := func(kid string) string {
		p := &primary{alg: "HS512", kid: kid, secret: []byte("x")}
		return p.mac("{}")
	}
	s := &sessions{}
	for name, c := range map[string]struct {
		want   check
		status int
		body   string
		ok     bool
	}{
		"the backup's": {byBackup, 200, `{"id_token":"` + jwt("bk-1") + `"}`, true},
		"the primary's where the backup's is due": {byBackup, 200, `{"id_token":"` + jwt("1") + `"}`, false},
		"the backup's where the primary's is due": {byPrimary, 200, `{"id_token":"` + jwt("bk-1") + `"}`, false},
		"no ID token":                     {byBackup, 200, `{"access_token":"x"}`, false},
		"an ID token without kid":         {byPrimary, 200, `{"id_token":"e30.e30.x"}`, false},
		"not now":                         {byBackup, 503, `{"error":"temporarily_unavailable"}`, false},
		"an ID token with another status": {byBackup, 201, `{"id_token":"` + jwt("bk-1") + `"}`, false},
	} {
		if err := c.want.of(s, c.status, []byte(c.body)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoadNeverRepeats: a server that takes a request and breaks off sees it once, and the load ends with an error.
func TestLoadNeverRepeats(t *testing.T) {
	for name, reply := range map[string]string{
		"no reply":             "",
		"half a reply":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
		"not now":              "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}",
		"closed after a reply": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			var seen atomic.Int64
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					r := bufio.NewReader(c)
					for {
						if _, err := http.ReadRequest(r); err != nil {
							break
						}
						seen.Add(1)
						io.WriteString(c, reply)
						if name != "not now" {
							break
						}
					}
					c.Close()
				}
			}()
			s := &sessions{addr: ln.Addr().String(), host: "x", path: "/", tokens: []string{"t"}, turn: make([]int, 1)}
			done, _, err := s.load(byBackup, "").run(t.Context(), 2*time.Second)
			if err == nil {
				t.Errorf("%d requests and no error", done)
			}
			if n := seen.Load(); n != 1 {
				t.Errorf("the server saw %d requests", n)
			}
		})
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for _, args := range [][]string{{"-only", "P7"}, {"P1"}, {"-quick", "-write"}, {"-profile", "x", "-write"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	o, err := parse([]string{"-only", "P1,P3"}, io.Discard)
	if err != nil || !slices.Equal(o.only, []string{"P1", "P3"}) || o.sessions < 10_000 || o.records < 1_000_000 {
		t.Errorf("%+v, %v", o, err)
	}
}
