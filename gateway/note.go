package gateway

import (
	"understudy/audit"
)

// note counts a decision that the gateway made by itself, and leaves its line in the sign-in log (design, law 9). trigger is
// the line of the table of failures that brought it about, "" for none.
func (g *Gateway) note(v *visit, decision, rule, trigger string) error {
	name := string(v.endpoint)
	if v.flow != nil {
		name = v.flow.Name()
	}
	if decision == "refused" {
		g.Counts.Refused(v.tenant.Name, name, rule)
	} else {
		g.Counts.Answered(v.tenant.Name, name, rule)
	}
	if g.c.Audit == nil {
		return nil
	}
	if v.id == "" {
		v.id = requestID()
	}
	e := audit.Entry{
		Time: v.began, ID: v.id, Tenant: v.tenant.Name, Flow: name, Address: v.address, Trigger: trigger,
		TokenIssuerType: "none", Decision: decision, Rule: rule, Latency: float64(g.c.Now().Sub(v.began).Microseconds()) / 1000,
	}
	if decision == "issued" {
		e.TokenIssuerType = "backup"
	}
	if v.issuer != nil {
		e.Issuer = v.issuer.ID
	}
	if v.exchange != nil {
		e.Client = v.exchange.Ask().Client.ID
	}
	e.Told, e.Untold = v.told, v.untold
	err := g.c.Audit.Write(e)
	if err != nil {
		g.c.Log.Error("a refusal has no line in the sign-in log", "tenant", e.Tenant, "id", e.ID, "rule", rule, "error", err)
	}
	return err
}
