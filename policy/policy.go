// Package policy decides whether a session may go on. It is pure: no clock, network or store.
package policy

import "understudy/session"

// Facts are what a decision may look at.
type Facts struct {
	Tenant   string
	Flow     string
	Client   string
	Subject  string
	Now      session.Facts // of the request
	Approved session.Facts // as remembered from the approved request
}

// Decision is the result. Rule is stable and goes into the sign-in log.
type Decision struct {
	Permit bool
	Rule   string
}

// PermitAll is the policy of a tenant that has none of its own: what the primary approved goes on.
func PermitAll(Facts) Decision { return Decision{Permit: true, Rule: "no_policy"} }
