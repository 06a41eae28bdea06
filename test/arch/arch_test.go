// Package arch holds the layering of the house: which package may import which.
// It parses the sources itself, so that a violation is seen although the test
// binary does not depend on the package.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/portico-ingress/portico"

// rule is what one package may import of ours, beside router/diag, and what it
// must never reach.
type rule struct {
	floor  int
	ours   []string
	banned map[string]string // prefix of an import path: why
}

// Reasons of bans that several packages share.
const (
	noKubernetes = "the data path knows nothing of Kubernetes: it serves a folder as well"
	noClient     = "translation is pure: same objects in, same table out"
	noHTTPUtil   = "ReverseProxy hides framing, drops queries and passes CONNECT on"
)

var (
	dataPath = map[string]string{"k8s.io/": noKubernetes, "sigs.k8s.io/": noKubernetes, "github.com/caddyserver/certmagic": "certificates come through certstore", "net/http/httputil": noHTTPUtil}
	pure     = map[string]string{"k8s.io/client-go": noClient, "sigs.k8s.io/controller-runtime": noClient, "net/http": noClient}
)

// rules lists every package of the product. A package imports only what its
// row names; rows name only lower floors.
var rules = map[string]rule{
	"router/diag":          {floor: 0, banned: dataPath},
	"router/view":          {floor: 0, banned: dataPath},
	"router/policy":        {floor: 0, banned: dataPath},
	"router/internal/trie": {floor: 0, banned: dataPath},
	// wire parses into view's fields; view is the vocabulary of floor 0.
	"router/wire":    {floor: 0, ours: []string{"router/view"}, banned: dataPath},
	"router/wire/h2": {floor: 0, ours: []string{"router/view", "router/wire"}, banned: with(dataPath, "net/http", "a codec without I/O serves nobody")},
	"router/tcp":     {floor: 0, banned: dataPath},
	"router/splice":  {floor: 0, banned: dataPath},
	"router/listen":  {floor: 1, ours: []string{"router/tcp", "router/view"}, banned: dataPath},
	"router/l4":      {floor: 0, banned: with(dataPath, "github.com/mdlayher/netlink", "the node's model knows nothing of the kernel: router/l4/nft renders it")},
	"tls/certstore":  {floor: 0, ours: []string{"router/view"}, banned: dataPath},
	"router":         {floor: 1, ours: []string{"router/view", "router/policy", "router/internal/trie"}, banned: with(dataPath, "net/http", "the table decides, it does not serve")},
	// acme is where certmagic is let in; names are canonical in view's words.
	"tls/acme":            {floor: 1, ours: []string{"router/view", "tls/certstore"}, banned: map[string]string{"k8s.io/": "its storage is an interface: it serves a folder as well", "sigs.k8s.io/": "its storage is an interface: it serves a folder as well", "net/http/httputil": noHTTPUtil}},
	"router/l4/nft":       {floor: 1, ours: []string{"router/l4"}, banned: with(dataPath, module+"/controllers", "the kernel is programmed from a plan, whoever made it")},
	"router/l4/conntrack": {floor: 1, ours: []string{"router/l4"}, banned: with(dataPath, module+"/controllers", "flows are forgotten by a plan, whoever made it")},
	"router/l4/preflight": {floor: 1, banned: with(dataPath, module+"/controllers", "a node is looked at before anybody tells it what to do")},
	"router/upstream":     {floor: 1, ours: []string{"router/view", "router/policy", "router/splice", "router/tcp", "router/wire", "router/wire/h2"}, banned: dataPath},
	"router/publish":      {floor: 2, ours: []string{"router", "router/upstream", "router/view", "tls/certstore"}, banned: dataPath},
	"router/proxy": {floor: 2, ours: []string{"router", "router/upstream", "router/view", "router/policy", "router/splice", "router/tcp", "router/wire", "router/wire/h2"},
		banned: with(dataPath, module+"/controllers", "the engine is fed through its own small interfaces")},
	"controllers/translate": {floor: 2, ours: []string{"router", "router/l4", "router/policy", "router/view", "router/upstream", "tls/certstore"}, banned: pure},
	"controllers/manifest":  {floor: 2, ours: []string{"router/view"}, banned: pure},
	"router/admin":          {floor: 3, ours: []string{"router", "router/upstream", "router/publish", "router/view", "tls/certstore"}, banned: dataPath},
	"router/explain":        {floor: 3, ours: []string{"router", "router/upstream", "router/publish", "router/view", "tls/certstore"}, banned: dataPath},
	"controllers/ingress":   {floor: 3, ours: []string{"controllers/translate", "router", "router/publish", "router/upstream", "tls/certstore"}, banned: noEngine()},
	// certs writes the certificates that acme gets, and feeds what is served.
	"controllers/certs":  {floor: 3, ours: []string{"controllers/translate", "router", "router/publish", "router/view", "tls/certstore", "tls/acme"}, banned: noEngine()},
	"controllers/status": {floor: 3, ours: []string{"controllers/translate", "router/publish"}, banned: noEngine()},
	"controllers/folder": {floor: 3, ours: []string{"controllers/translate", "controllers/manifest", "router", "router/publish", "router/upstream", "tls/certstore"},
		banned: noEngine()},
	"controllers/node":       {floor: 3, ours: []string{"controllers/translate", "router/l4"}, banned: with(noEngine(), "github.com/google/nftables", "the kernel is an interface: router/l4/nft is wired in cmd")},
	"controllers/prove":      {floor: 3, ours: []string{"controllers/prove/load"}, banned: noEngine()},
	"controllers/prove/load": {floor: 0, banned: dataPath},
	"cmd/internal/program":   {floor: 3, banned: noEngine()},
	"cmd/portico-demo":       {floor: 4},
}

// anything lists packages that wire the parts together, and those that only
// tests import.
var anything = []string{"cmd/portico", "cmd/portico-node", "test"}

func noEngine() map[string]string {
	return map[string]string{module + "/router/proxy": "the Kubernetes half and the data path meet only in cmd, through router/publish"}
}

func with(m map[string]string, path, why string) map[string]string {
	m = maps.Clone(m)
	m[path] = why
	return m
}

// pkg is one package as its sources say.
type pkg struct {
	files   int
	imports map[string]string // path: a file that imports it
	doc     []string          // files with a package comment
}

func TestLayers(t *testing.T) {
	packages := load(t)
	for dir, p := range packages {
		if slices.ContainsFunc(anything, func(a string) bool { return dir == a || strings.HasPrefix(dir, a+"/") }) {
			continue
		}
		r, ok := rules[dir]
		if !ok {
			t.Errorf("package %s has no floor: add it to the rules in test/arch and to docs/architecture.md", dir)
			continue
		}
		for path, file := range p.imports {
			checkImport(t, dir, r, path, file)
		}
	}
	for dir := range rules {
		if _, ok := packages[dir]; !ok {
			t.Errorf("the rules name %s, which does not exist any more", dir)
		}
	}
}

func checkImport(t *testing.T, dir string, r rule, path, file string) {
	for banned, why := range r.banned {
		if path == banned || strings.HasPrefix(path, strings.TrimSuffix(banned, "/")+"/") {
			t.Errorf("%s imports %s: %s", file, path, why)
		}
	}
	ours, ok := strings.CutPrefix(path, module+"/")
	if !ok || ours == "router/diag" {
		return
	}
	if !slices.Contains(r.ours, ours) {
		t.Errorf("%s imports %s, which the row of %s does not name", file, ours, dir)
	}
}

// TestRulesDescend: rows name lower floors only, and a part names the whole that
// it lies in. On floor 0, view is what the others are written in.
func TestRulesDescend(t *testing.T) {
	for dir, r := range rules {
		for _, ours := range r.ours {
			lower, ok := rules[ours]
			if !ok {
				t.Errorf("%s: %s has no row", dir, ours)
			} else if lower.floor >= r.floor && ours != "router/view" && !strings.HasPrefix(dir, ours+"/") {
				t.Errorf("%s on floor %d names %s on floor %d", dir, r.floor, ours, lower.floor)
			}
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	for dir, p := range load(t) {
		if len(p.doc) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", dir, len(p.doc), p.doc)
		}
	}
}

// TestTopLevel holds the folders that the project's layout fixes.
func TestTopLevel(t *testing.T) {
	allowed := []string{"cmd", "controllers", "router", "tls", "charts", "config", "test", "docs", "go.mod", "go.sum", "Makefile", "PROJECT", "README.md", "LICENSE", "bin"}
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s does not belong on the top level", e.Name())
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// load parses the imports of every package outside of testdata and of the
// modules below test/tools, without its tests.
func load(t *testing.T) map[string]*pkg {
	t.Helper()
	base := root(t)
	packages := map[string]*pkg{}
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(base, path)
		name := d.Name()
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || rel == filepath.Join("test", "tools")) {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			return add(packages, filepath.ToSlash(filepath.Dir(rel)), path, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func add(packages map[string]*pkg, dir, path, rel string) error {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	p := packages[dir]
	if p == nil {
		p = &pkg{imports: map[string]string{}}
		packages[dir] = p
	}
	p.files++
	if hasDoc(f) {
		p.doc = append(p.doc, rel)
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		p.imports[imported] = rel
	}
	return nil
}

func hasDoc(f *ast.File) bool { return f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" }
