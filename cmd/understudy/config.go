package main

import (
	"errors"
	"fmt"

	"understudy/admin"
	"understudy/config"
)

func isNotRunning(err error) bool { return errors.Is(err, admin.ErrNotRunning) }

type configCommand struct {
	Show configShowCommand `cmd:"" help:"Print the configuration in force, with the environment and defaults."`
}

type configShowCommand struct {
	source
	JSON bool `name:"json" help:"Print JSON."`
}

func (configShowCommand) Help() string {
	return `What is printed is a configuration file again. There are no secrets in it: those are in files of their own.

Examples:

  understudy config show --config /etc/understudy.yaml

  UNDERSTUDY_LOG_LEVEL=debug understudy config show --config /etc/understudy.yaml --json | jq .log`
}

func (c *configShowCommand) Run(std *streams) error {
	cf, _, unknown, err := c.load(config.Flags{})
	if err != nil {
		return fmt.Errorf("the configuration is not taken:\n%w", err)
	}
	for _, v := range unknown {
		fmt.Fprintf(std.err, "understudy: %s means nothing; is it mistyped?\n", v)
	}
	if c.JSON {
		m, err := cf.Tree()
		if err != nil {
			return err
		}
		return printJSON(std.out, m)
	}
	b, err := cf.Show()
	if err != nil {
		return err
	}
	_, err = std.out.Write(b)
	return err
}
