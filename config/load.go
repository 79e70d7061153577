package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"
)

// Flags are settings given on the command line. Empty ones change nothing.
type Flags struct {
	Primary    string // URL of the only tenant's primary
	Listen     string // address of the only listener
	Host       string // public host name of the only tenant
	DataDir    string
	AllowPlain bool
}

// Load reads a file ("": none), puts the environment over it and flags over both, fills in defaults and checks the
// whole. The error holds every [Problem]; see [Problems]. unknown are variables of the environment that mean nothing.
func Load(file string, environ []string, f Flags) (c *Config, s *Source, unknown []string, err error) {
	c, s = &Config{}, &Source{lines: map[string]int{}}
	if file != "" {
		b, err := readFile(file)
		if err != nil {
			return nil, nil, nil, &Problem{File: file, Text: fmt.Sprintf("the configuration cannot be read: %s", cause(err))}
		}
		if c, s, err = Parse(file, b); err != nil {
			return nil, nil, nil, err
		}
	}
	if unknown, err = c.Environment(environ, s); err != nil {
		return nil, nil, nil, err
	}
	if err := c.flags(f, s); err != nil {
		return nil, nil, nil, err
	}
	c.Defaults()
	if err := c.Check(s); err != nil {
		return nil, nil, nil, err
	}
	return c, s, unknown, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// cause is an error of the file system without the path, which the message has already.
func cause(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

func (c *Config) flags(f Flags, s *Source) error {
	s.flags = map[string]string{}
	if f.DataDir != "" {
		c.DataDir, s.flags["data_dir"] = f.DataDir, "--data-dir"
	}
	if f.Listen != "" {
		switch len(c.Listeners) {
		case 0:
			c.Listeners = []Listener{{}}
		case 1:
		default:
			return &Problem{Path: "--listen", Text: fmt.Sprintf("%s has %d listeners, and it is not clear which one is meant: change it there", s.File, len(c.Listeners))}
		}
		c.Listeners[0].Address, s.flags["listeners[0].address"] = f.Listen, "--listen"
	}
	if f.AllowPlain {
		for i := range c.Listeners {
			c.Listeners[i].AllowPlain = true
		}
	}
	if f.Primary == "" && f.Host == "" {
		return nil
	}
	switch {
	case len(c.Tenants) == 0 && f.Primary != "":
		c.Tenants = []Tenant{{}}
	case len(c.Tenants) == 0:
		return &Problem{Path: "--host", Text: "there is no tenant that it could belong to: give --primary too, or --config"}
	case len(c.Tenants) > 1:
		return &Problem{Path: "--primary, --host", Text: fmt.Sprintf("%s has %d tenants, and it is not clear which one is meant: change it there", s.File, len(c.Tenants))}
	}
	t := &c.Tenants[0]
	if f.Primary != "" {
		t.Upstream.URL, s.flags["tenants[0].upstream.url"] = f.Primary, "--primary"
	}
	switch {
	case f.Host != "":
		t.Hosts, s.flags["tenants[0].hosts"] = []string{f.Host}, "--host"
	case len(t.Hosts) == 0 && len(c.Listeners) > 0:
		// A trial on one machine: clients come to the address that it listens on.
		t.Hosts, s.flags["tenants[0].hosts"] = []string{c.Listeners[0].Address}, "--listen"
	}
	return nil
}

// Defaults fills in every setting that was left out.
func (c *Config) Defaults() {
	text := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	text(&c.Role, RoleAll)
	text(&c.DataDir, "understudy-data")
	text(&c.SealingKeyFile, filepath.Clean(c.DataDir)+".key")
	text(&c.HealthPath, "/.understudy/health")
	text(&c.Audit.Dir, filepath.Join(c.DataDir, "audit"))
	orElse(&c.Audit.KeepDays, 90)
	orElse(&c.Audit.MaxFileBytes, 256<<20)
	orElse(&c.Backup.SpoolMaxBytes, 256<<20)
	text(&c.Log.Level, "info")
	text(&c.Log.Format, "text")
	for i := range c.Tenants {
		t := &c.Tenants[i]
		if len(c.Tenants) == 1 {
			text(&t.Name, "default")
		}
		scheme := "http"
		if len(t.TrustedProxies) > 0 {
			scheme = "https"
		}
		for _, l := range c.Listeners {
			if l.TLS.CertFile != "" {
				scheme = "https"
			}
		}
		text(&t.Scheme, scheme)
		t.defaults()
	}
}

func orElse[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Show is the configuration as a YAML file. There are no secrets in it: those are in files of their own.
func (c *Config) Show() ([]byte, error) {
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("show the configuration: %w", err)
	}
	return b, nil
}

// Tree is the configuration as [encoding/json] takes it, with the file's keys.
func (c *Config) Tree() (map[string]any, error) {
	b, err := c.Show()
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("show the configuration: %w", err)
	}
	return m, nil
}
