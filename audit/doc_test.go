package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documented returns the code in the first column of the table below a heading of docs/audit.md.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	b, err := os.ReadFile("../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/audit.md has no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var out []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z_]+)` \\|").FindAllStringSubmatch(rest, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestEveryMemberIsDocumentedInOrder(t *testing.T) {
	var members []string
	for f := range reflect.TypeFor[Entry]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		members = append(members, name)
	}
	if got := documented(t, "Members"); !slices.Equal(got, members) {
		t.Errorf("docs/audit.md documents\n%v, the members are\n%v", got, members)
	}
}

// source is what the project's source says of refusals.
type source struct {
	t     *testing.T
	codes map[string]string // refusal code → where
	maybe map[string]bool   // codes of parts that do not open at the start
	rules map[string]string // literal rules of package policy
}

// Arguments that are no literals, and where their values come from.
var indirect = map[string]string{
	"d.Rule": "policy",
	"u.code": "parts that do not open",
	"code":   "the parameter of NotNow and No themselves, or literals of the same function",
}

// notServed are directories whose code answers nobody's sign-in.
var notServed = []string{"bench", "demo", "e2e", "idptest", "node_modules", "testdata"}

func TestEveryRefusalIsDocumented(t *testing.T) {
	s := source{t: t, codes: map[string]string{}, maybe: map[string]bool{}, rules: map[string]string{}}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (slices.Contains(notServed, name) || strings.HasPrefix(name, ".") && name != "..") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			s.decl(path, f.Name.Name, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.codes) < 20 || s.codes["no_record"] == "" {
		t.Fatalf("the source has only %d codes: the test looks in the wrong place", len(s.codes))
	}
	docs := documented(t, "Refusal codes")
	if !slices.IsSorted(docs) {
		t.Error("docs/audit.md: the codes are not in order")
	}
	for code, where := range s.codes {
		if !slices.Contains(docs, code) {
			t.Errorf("%s refuses with %q: write into docs/audit.md, Refusal codes, what it means", where, code)
		}
	}
	for i, code := range docs {
		if s.codes[code] == "" && !s.maybe[code] {
			t.Errorf("docs/audit.md documents %q, which nothing refuses with", code)
		}
		if slices.Contains(docs[:i], code) {
			t.Errorf("docs/audit.md documents %q twice", code)
		}
	}
	rules := documented(t, "Rules of policy")
	for rule, where := range s.rules {
		if !slices.Contains(rules, rule) {
			t.Errorf("%s decides with %q: write into docs/audit.md, Rules of policy, what it means", where, rule)
		}
	}
}

func (s *source) decl(path, pkg string, d ast.Decl) {
	assigned := map[string][]string{} // string literals by the variable that takes them
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, l := range n.Lhs {
				id, ok := l.(*ast.Ident)
				if !ok || i >= len(n.Rhs) {
					continue
				}
				if v, ok := literal(n.Rhs[i]); ok {
					assigned[id.Name] = append(assigned[id.Name], v)
				}
			}
		case *ast.KeyValueExpr:
			if id, ok := n.Key.(*ast.Ident); ok && pkg == "policy" && id.Name == "Rule" {
				if v, ok := literal(n.Value); ok {
					s.rules[v] = path
				}
			}
		case *ast.CallExpr:
			s.call(path, pkg, n, assigned)
		}
		return true
	})
}

func (s *source) call(path, pkg string, c *ast.CallExpr, assigned map[string][]string) {
	name := text(c.Fun)
	if strings.HasSuffix(name, "problems.add") && len(c.Args) > 0 {
		if v, ok := literal(c.Args[0]); ok {
			s.maybe[v] = true
		}
	}
	refusal := name == "flow.NotNow" || name == "flow.No" || pkg == "flow" && (name == "NotNow" || name == "No")
	if !refusal || len(c.Args) == 0 {
		return
	}
	if v, ok := literal(c.Args[0]); ok {
		s.codes[v] = path
		return
	}
	arg := text(c.Args[0])
	for _, v := range assigned[arg] {
		s.codes[v] = path
	}
	if len(assigned[arg]) == 0 && indirect[arg] == "" {
		s.t.Errorf("%s: a refusal's code is %s: write a literal, or say in this test where it comes from", path, arg)
	}
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	v, err := strconv.Unquote(l.Value)
	return v, err == nil
}

// text is the source of a dotted name, or "?".
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return text(e.X) + "." + e.Sel.Name
	}
	return "?"
}
