package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const manualFile = "../docs/configuration.md"

const manualHead = `# Configuration

<!-- Made from the comments in config/config.go: go test ./config -run Manual -update -->

One YAML file, given with ` + "`--config FILE`" + ` or ` + "`UNDERSTUDY_CONFIG`" + `. An unknown key is an error. Every setting can be given in the environment too,
over the file; flags of ` + "`understudy serve`" + ` are over both. ` + "`understudy config show`" + ` prints what is in force, ` + "`understudy check`" + ` what is wrong with it.
No secret stands in the file: where one is needed, the file names the file that holds it.

` + "`SIGHUP`" + ` makes a running process read the file again. Where the new file is wrong, or changes what only a new start can change
(role, directories, key files, the admin listener, the sign-in log, backup), the old configuration stays in force and the log says why. Certificate files are read again by themselves when they change.

` + "```yaml" + `
listeners:
  - address: ":443"
    tls: {cert_file: /etc/understudy/tls.crt, key_file: /etc/understudy/tls.key}
data_dir: /var/lib/understudy
tenants:
  - name: staff
    hosts: [login.example.com]
    upstream: {url: "https://keycloak.internal:8443", ca_file: /etc/understudy/internal-ca.pem}
    issuers: ["https://login.example.com/realms/main"]
` + "```" + `
`

// The manual is made from the comments, and is current.
func TestManual(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	structs, about := map[string]*ast.StructType{}, map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		ts := g.Specs[0].(*ast.TypeSpec)
		structs[ts.Name.Name], about[ts.Name.Name] = ts.Type.(*ast.StructType), prose(g.Doc)
	}
	var b strings.Builder
	b.WriteString(manualHead)
	var write func(rt reflect.Type, path, env string)
	write = func(rt reflect.Type, path, env string) {
		title := path
		if path == "" {
			title = "The file"
		} else {
			title = "`" + path + "`"
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | type | environment | meaning |\n|---|---|---|---|\n", title, about[rt.Name()])
		type sub struct {
			t         reflect.Type
			path, env string
		}
		var subs []sub
		for i := range rt.NumField() {
			sf := rt.Field(i)
			key := sf.Tag.Get("yaml")
			doc := ""
			for _, x := range structs[rt.Name()].Fields.List {
				if x.Names[0].Name == sf.Name {
					doc = prose(x.Doc)
				}
			}
			if doc == "" {
				t.Errorf("%s.%s has no comment: it is the manual", rt.Name(), sf.Name)
			}
			at, ev, kind := join(path, key), env+"_"+strings.ToUpper(key), typeName(sf.Type)
			shown := "`" + ev + "`"
			switch {
			case sf.Type.Kind() == reflect.Struct:
				subs, shown = append(subs, sub{sf.Type, at, ev}), ""
			case sf.Type.Kind() == reflect.Slice && sf.Type.Elem().Kind() == reflect.Struct:
				subs, shown = append(subs, sub{sf.Type.Elem(), at + "[]", ev + "_0"}), ""
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", key, kind, shown, strings.ReplaceAll(doc, "|", `\|`))
		}
		for _, s := range subs {
			write(s.t, s.path, s.env)
		}
	}
	write(reflect.TypeFor[Config](), "", strings.TrimSuffix(Prefix, "_"))
	if *update {
		if err := os.MkdirAll("../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(manualFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(manualFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not current: go test ./config -run Manual -update", manualFile)
	}
}

func prose(g *ast.CommentGroup) string {
	return strings.Join(strings.Fields(g.Text()), " ")
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t.Kind() == reflect.Pointer:
		return typeName(t.Elem())
	case t.Kind() == reflect.Slice:
		return strings.TrimSuffix("list of "+typeName(t.Elem()), "s") + "s"
	case t.Kind() == reflect.Struct:
		return "keys"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	}
	return "number"
}
