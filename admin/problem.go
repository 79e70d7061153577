// Package admin is what operators see and do: the admin API with metrics and health, and a client for it.
//
// It owns the words of status, revocation and lifting, and who may speak to it: whoever can open the unix socket in the
// data directory, and over TCP whoever holds the token, under TLS only. It refuses to acknowledge a revocation that is
// not durable. It decides nothing about a sign-in.
package admin

// Problem is something that an operator must mend.
type Problem struct {
	Code string `json:"code"` // stable
	Text string `json:"text"`
	Mend string `json:"mend"`
}
