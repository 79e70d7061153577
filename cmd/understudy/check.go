package main

import (
	"context"
	"fmt"

	"understudy/config"
	"understudy/serve"
)

type checkCommand struct {
	source
	Primary string `help:"URL of the identity provider, in place of the configuration's." placeholder:"URL"`
	Listen  string `help:"Address to listen on, in place of the configuration's." placeholder:"ADDR"`
	Host    string `help:"Public host name, in place of the configuration's." placeholder:"NAME"`
	JSON    bool   `name:"json" help:"Print JSON."`
}

func (checkCommand) Help() string {
	return `It changes nothing. It can run beside a running understudy, and then tells what that could not learn.

Examples:

  understudy check --config /etc/understudy.yaml

  understudy check --config /etc/understudy.yaml --json | jq '.findings[] | select(.level == "not_protected")'

The exit status is 1 where there is a problem, or where something is not protected.`
}

func (c *checkCommand) Run(ctx context.Context, std *streams) error {
	cf, src, unknown, err := c.load(config.Flags{Primary: c.Primary, Listen: c.Listen, Host: c.Host})
	r := &serve.Report{}
	if err != nil {
		for _, p := range config.Problems(err) {
			r.Findings = append(r.Findings, serve.Finding{Level: serve.Wrong, Code: "configuration", Text: p.Error()})
		}
	} else {
		r = serve.Check(ctx, cf, src)
	}
	for _, v := range unknown {
		r.Findings = append(r.Findings, serve.Finding{Level: serve.Warning, Code: "environment", Text: v + " means nothing", Mend: "see whether it is mistyped; docs/configuration.md lists the variables"})
	}
	if c.JSON {
		if err := printJSON(std.out, r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Findings {
			c.print(std, f)
		}
	}
	if r.Bad() {
		return errProblem
	}
	return nil
}

func (c *checkCommand) print(std *streams, f serve.Finding) {
	what := map[string]string{serve.OK: "ok", serve.Note: "note", serve.Warning: "WARNING", serve.NotProtected: "NOT PROTECTED", serve.Wrong: "PROBLEM"}[f.Level]
	where := ""
	switch {
	case f.Issuer != "":
		where = f.Tenant + ", " + f.Issuer + ": "
	case f.Tenant != "":
		where = f.Tenant + ": "
	}
	fmt.Fprintf(std.out, "%-13s %s%s\n", what, where, f.Text)
	if f.Mend != "" {
		fmt.Fprintf(std.out, "%-13s → %s\n", "", f.Mend)
	}
}
