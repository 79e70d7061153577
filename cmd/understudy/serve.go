package main

import (
	"context"
	"fmt"
	"os"

	"understudy/config"
	"understudy/serve"
)

// source is where a command finds its configuration.
type source struct {
	Config  string `short:"c" help:"Configuration file." env:"UNDERSTUDY_CONFIG" placeholder:"FILE"`
	DataDir string `help:"Data directory, over the configuration's." placeholder:"DIR"`
}

// load loads the configuration that a command names.
func (s *source) load(f config.Flags) (*config.Config, *config.Source, []string, error) {
	f.DataDir = s.DataDir
	return config.Load(s.Config, os.Environ(), f)
}

type serveCommand struct {
	source
	Primary    string `help:"URL of the identity provider." placeholder:"URL"`
	Listen     string `help:"Address to listen on." placeholder:"ADDR"`
	Host       string `help:"Public host name; the listening address where not given." placeholder:"NAME"`
	AllowPlain bool   `help:"Listen without TLS on an address that others can reach: only behind something that ends TLS."`
}

func (serveCommand) Help() string {
	return `Examples:

  understudy serve --config /etc/understudy.yaml

  understudy serve --primary http://127.0.0.1:8080 --listen 127.0.0.1:9090

It starts and stays up with the identity provider away. SIGHUP reads the configuration again; one that is wrong changes nothing.`
}

func (c *serveCommand) Run(ctx context.Context) error {
	if c.Config == "" && (c.Primary == "" || c.Listen == "") && !inEnvironment() {
		return usage("give --config FILE, or --primary URL and --listen ADDR")
	}
	flags := config.Flags{Primary: c.Primary, Listen: c.Listen, Host: c.Host, AllowPlain: c.AllowPlain}
	resolve := func() (*config.Config, serve.Options, []string, error) {
		cf, src, unknown, err := c.load(flags)
		if err != nil {
			return nil, serve.Options{}, nil, err
		}
		o, err := serve.Resolve(cf, src)
		return cf, o, unknown, err
	}
	cf, o, unknown, err := resolve()
	if err != nil {
		return fmt.Errorf("the configuration is not taken:\n%w", err)
	}
	o.Log, o.LogLevel = serve.Logger(cf.Log)
	for _, v := range unknown {
		o.Log.Warn("a variable of the environment means nothing; is it mistyped? docs/configuration.md lists them", "variable", v)
	}
	if c.Config != "" {
		o.Reload = func() (serve.Options, error) {
			_, n, _, err := resolve()
			return n, err
		}
	}
	return serve.Run(ctx, o)
}

// inEnvironment says whether the environment alone may be a configuration.
func inEnvironment() bool {
	_, ok := os.LookupEnv(config.Prefix + "TENANTS_0_UPSTREAM_URL")
	return ok
}
