package serve

import "slices"

// Remote is the way between gateway and backup where they are separate processes. The zero value is none.
type Remote struct {
	Listen                    string // of the backup, for its gateways
	URL                       string // of the backup, at a gateway
	ServerName                string
	CertFile, KeyFile, CAFile string
	AllowedNames              []string
	SpoolMaxBytes             int64
}

func (r Remote) same(o Remote) bool {
	names := slices.Equal(r.AllowedNames, o.AllowedNames)
	return names && r.Listen == o.Listen && r.URL == o.URL && r.ServerName == o.ServerName && r.CertFile == o.CertFile &&
		r.KeyFile == o.KeyFile && r.CAFile == o.CAFile && r.SpoolMaxBytes == o.SpoolMaxBytes
}
