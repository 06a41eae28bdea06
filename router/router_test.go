package router

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/view"
)

// ingress makes an Ingress from lines such as
//
//	shop.example Prefix /api -> api:80
//	default -> web:80
//	tls shop.example shop-tls
func ingress(name string, created int64, lines ...string) *Ingress {
	ns, n, _ := strings.Cut(name, "/")
	ing := &Ingress{Origin: Origin{Ref: diag.Ref{Kind: "Ingress", Namespace: ns, Name: n}, Generation: 1, Created: created}}
	backend := func(s string) Backend {
		svc, port, _ := strings.Cut(s, ":")
		return Backend{Namespace: ns, Service: svc, Port: port}
	}
	for _, line := range lines {
		f := strings.Fields(line)
		switch f[0] {
		case "default":
			ing.Default = &DefaultBackend{Backend: backend(f[2]), Field: "spec.defaultBackend"}
		case "tls":
			ing.TLS = append(ing.TLS, TLS{Hosts: strings.Split(f[1], ","), Secret: f[2], Field: fmt.Sprintf("spec.tls[%d]", len(ing.TLS))})
		default:
			host := strings.TrimPrefix(f[0], "-")
			typ := Prefix
			if f[1] == "Exact" {
				typ = Exact
			}
			i := len(ing.Rules)
			ing.Rules = append(ing.Rules, Rule{Host: host, Field: fmt.Sprintf("spec.rules[%d]", i), Paths: []Path{{
				Path: f[2], Type: typ, Backend: backend(f[4]), Field: fmt.Sprintf("spec.rules[%d].http.paths[0]", i),
			}}})
		}
	}
	return ing
}

func request(url string) *view.Request {
	host, path, _ := strings.Cut(url, "/")
	return &view.Request{Method: "GET", Host: host, Path: "/" + path}
}

func result(d Decision) string {
	if d.Route == nil {
		return "404"
	}
	return d.Route.Backend.Service
}

func TestMatch(t *testing.T) {
	table := Compile(Options{}, []*Ingress{
		ingress("a/shop", 10,
			"shop.example Prefix / -> root:80",
			"shop.example Prefix /aaa -> aaa:80",
			"shop.example Prefix /aaa/bbb/ -> bbb:80",
			"shop.example Exact /aaa -> exact:80",
			"shop.example Exact /slash/ -> slash:80"),
		ingress("a/wild", 10, "*.example Prefix /w -> wild:80", "default -> wilddefault:80"),
		ingress("a/younger", 20, "*.example Prefix /w2 -> wild2:80", "default -> never:80"),
		ingress("a/bare", 10, "- Prefix /any -> any:80"),
		ingress("a/exactonly", 10, "strict.example Exact /foo -> foo:80"),
		ingress("a/global", 10, "default -> global:80"),
		ingress("a/tlsonly", 10, "- Prefix /any2 -> any2:80", "tls only-tls.test cert"),
	})
	for url, want := range map[string]string{
		"shop.example/":           "root",
		"shop.example/aaa":        "exact",
		"shop.example/aaa/":       "aaa",
		"shop.example/aaab":       "root",
		"shop.example/aaa/bbb":    "bbb",
		"shop.example/aaa/bbb/":   "bbb",
		"shop.example/aaa/bbb/c":  "bbb",
		"shop.example/aaa/bbbc":   "aaa",
		"shop.example/AAA":        "root",
		"shop.example/slash":      "root",
		"shop.example/slash/":     "slash",
		"x.example/w":             "wild",
		"x.example/w2":            "wild2",
		"x.example/none":          "wilddefault",
		"a.b.example/w":           "global", // two labels: not the wildcard
		"example/w":               "global", // none
		"a.b.example/any":         "any",
		"strict.example/foo":      "foo",
		"strict.example/foo/":     "global", // an exact host never falls to the wildcard
		"strict.example/any":      "global", // nor to rules without host
		"unknown.test/any":        "any",
		"unknown.test/any/b":      "any",
		"unknown.test/other":      "global",
		"only-tls.test/any2":      "any2", // spec.tls alone does not make a host known
		"[2001:db8::1]/any":       "any",
		"/any":                    "any",
		"192.0.2.7/any":           "any",
		"shop.example/aaa/bbb//c": "bbb",
	} {
		if got := result(table.Match(request(url))); got != want {
			t.Errorf("%s goes to %s, want %s", url, got, want)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	table := Compile(Options{}, manyIngresses(100))
	r := request("h42.example/p1/deeper/still")
	if n := testing.AllocsPerRun(100, func() { table.Match(r) }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func TestGlobalDefault(t *testing.T) {
	flag := &Backend{"sys", "fallback", "80"}
	if got := result(Compile(Options{Default: flag}, nil).Match(request("x/"))); got != "fallback" {
		t.Errorf("got %s, want the Service of the flag", got)
	}
	older, younger := ingress("b/old", 1, "default -> old:80"), ingress("a/new", 2, "default -> new:80")
	if got := result(Compile(Options{Default: flag}, []*Ingress{younger, older}).Match(request("x/"))); got != "old" {
		t.Errorf("got %s, want the older Ingress", got)
	}
	only := Options{CatchAll: func(ns string) bool { return ns == "a" }}
	table := Compile(only, []*Ingress{younger, older, ingress("b/bare", 1, "- Prefix / -> bare:80")})
	if got := result(table.Match(request("x/"))); got != "new" {
		t.Errorf("got %s, want the Ingress of the permitted namespace", got)
	}
	wantProblems(t, table, "Ingress b/bare: spec.rules[0].host: CatchAllRefused", "Ingress b/old: spec.defaultBackend: CatchAllRefused",
		"Ingress a/new: spec.defaultBackend: CatchAll")
}

func TestHostTLS(t *testing.T) {
	table := Compile(Options{}, []*Ingress{
		ingress("a/wild", 1, "tls *.example wild"),
		ingress("a/own", 2, "own.example Prefix / -> x:80"),
		ingress("b/foreign", 2, "foreign.example Prefix / -> x:80"),
		ingress("b/named", 2, "named.example Prefix / -> x:80", "tls named.example cert"),
	})
	for host, want := range map[string]bool{
		"any.example": true, "own.example": true, "foreign.example": false, "named.example": true, "a.any.example": false, "": false,
	} {
		if got := table.Match(&view.Request{Host: host, Path: "/"}).TLS; got != want {
			t.Errorf("TLS of %q = %v, want %v", host, got, want)
		}
	}
}

func TestOwnership(t *testing.T) {
	ings := []*Ingress{
		ingress("a/first", 1, "h.example Prefix /a -> a:80", "tls h.example a-cert"),
		ingress("b/second", 2, "h.example Prefix /b -> b:80", "tls h.example b-cert", "default -> bdef:80"),
	}
	merged := Compile(Options{}, ings)
	if got := result(merged.Match(request("h.example/b"))); got != "b" {
		t.Errorf("merged: got %s, want b", got)
	}
	wantProblems(t, merged, "Ingress b/second: spec.rules[0].host: HostShared", "Ingress b/second: spec.tls[0]: CertificateRefused")
	if h, _ := merged.Host("h.example"); h.TLS == nil || h.TLS.Secret != "a-cert" {
		t.Errorf("TLS claim %+v, want a-cert", h.TLS)
	}

	strict := Compile(Options{StrictHosts: true}, ings)
	for _, path := range []string{"h.example/b", "h.example/none"} {
		if got := result(strict.Match(request(path))); got != "404" {
			t.Errorf("strict: %s goes to %s, want 404", path, got)
		}
	}
	wantProblems(t, strict, "Ingress b/second: spec.rules[0].host: HostRefused", "Ingress b/second: spec.tls[0]: CertificateRefused")

	// Naming the host in spec.tls alone is enough to own it.
	table := Compile(Options{}, []*Ingress{ingress("z/tls", 1, "tls h.example cert"), ings[1]})
	if h, _ := table.Host("h.example"); h.Owner.Name() != "z/tls" {
		t.Errorf("owner %s, want z/tls", h.Owner.Name())
	}
}

func TestEqualClaims(t *testing.T) {
	young := ingress("a/young", 2, "h.example Prefix /x/ -> young:80")
	old := ingress("b/old", 1, "h.example Prefix /x -> old:80")
	exact := ingress("a/exact", 3, "h.example Exact /x -> exact:80")
	table := Compile(Options{}, []*Ingress{young, old, exact})
	if got := result(table.Match(request("h.example/x/y"))); got != "old" {
		t.Errorf("got %s, want the older Ingress", got)
	}
	if got := result(table.Match(request("h.example/x"))); got != "exact" {
		t.Errorf("got %s: Exact and Prefix are not equal claims", got)
	}
	wantProblems(t, table, "Ingress a/young: spec.rules[0].http.paths[0].path: PathConflict", "Ingress a/young: spec.rules[0].host: HostShared",
		"Ingress a/exact: spec.rules[0].host: HostShared")
	for _, p := range table.Problems() {
		if p.Reason == ReasonPathConflict && !strings.Contains(p.Message, "http://h.example/x") {
			t.Errorf("no request that both would match in %q", p.Message)
		}
	}
	sameAge := Compile(Options{}, []*Ingress{ingress("a/z", 1, "h Prefix / -> z:80"), ingress("a/b", 1, "h Prefix / -> b:80")})
	if got := result(sameAge.Match(request("h/"))); got != "b" {
		t.Errorf("got %s, want the first by name", got)
	}
	// Names that join to the same string stay apart.
	apart := Compile(Options{}, []*Ingress{ingress("a/b-c", 1, "h Prefix /1 -> s:80"), ingress("a-b/c", 1, "h Prefix /2 -> s:80")})
	if r := apart.Match(request("h/2")).Route; r == nil || r.Backend.Namespace != "a-b" {
		t.Errorf("got %+v", r)
	}
}

// wantProblems compares problems by "object: field: reason".
func wantProblems(t *testing.T, table *Table, want ...string) {
	t.Helper()
	got := map[string]bool{}
	for _, p := range table.Problems() {
		got[fmt.Sprintf("%s: %s: %s", p.Object, p.Field, p.Reason)] = true
		if p.Remedy == "" {
			t.Errorf("%s says no way out", p)
		}
	}
	for _, w := range want {
		if !got[w] {
			t.Errorf("problem %q is missing", w)
		}
		delete(got, w)
	}
	for g := range got {
		t.Errorf("problem %q was not expected", g)
	}
}

func TestShuffledBuildsAreEqual(t *testing.T) {
	ings := contested(60)
	want := Compile(Options{}, ings)
	for range 200 {
		rand.Shuffle(len(ings), func(i, j int) { ings[i], ings[j] = ings[j], ings[i] })
		got := Compile(Options{}, ings)
		if got.String() != want.String() {
			t.Fatalf("tables differ:\n%s\n---\n%s", got, want)
		}
		if g, w := fmt.Sprint(got.Problems()), fmt.Sprint(want.Problems()); g != w {
			t.Fatalf("problems differ:\n%s\n---\n%s", g, w)
		}
	}
}

// TestIncrementalEqualsFull drives one Builder through random changes and holds
// every table against one compiled from scratch.
func TestIncrementalEqualsFull(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := contested(40)
	b := NewBuilder(Options{})
	present := map[Key]*Ingress{}
	for range 300 {
		ing := all[rng.IntN(len(all))]
		if _, ok := present[ing.Key()]; ok && rng.IntN(2) == 0 {
			delete(present, ing.Key())
			b.Delete(ing.Key())
		} else {
			changed := *ing
			changed.Origin.Created = rng.Int64N(3)
			present[ing.Key()] = &changed
			b.Set(&changed)
		}
		var list []*Ingress
		for _, i := range present {
			list = append(list, i)
		}
		got, _ := b.Build()
		want := Compile(Options{}, list)
		if got.String() != want.String() || fmt.Sprint(got.Problems()) != fmt.Sprint(want.Problems()) {
			t.Fatalf("incremental:\n%s\nfull:\n%s", got, want)
		}
		checkPools(t, got)
	}
}

// checkPools holds every route's pool index against the list.
func checkPools(t *testing.T, table *Table) {
	t.Helper()
	used := map[Backend]bool{}
	check := func(r *Route) {
		if r == nil {
			return
		}
		used[r.Backend] = true
		if table.Backends()[r.Pool] != r.Backend {
			t.Fatalf("route to %s has the pool of %s", r.Backend, table.Backends()[r.Pool])
		}
	}
	for _, h := range table.Hosts() {
		for _, r := range h.Routes {
			check(r)
		}
		check(h.Default)
	}
	check(table.Global())
	for _, b := range table.Backends() {
		if b != (Backend{}) && !used[b] {
			t.Fatalf("pool %s is listed, but no route leads to it", b)
		}
	}
}

func TestBuildRecompilesOnlyWhatChanged(t *testing.T) {
	b := NewBuilder(Options{})
	for _, ing := range manyIngresses(50) {
		b.Set(ing)
	}
	first, _ := b.Build()
	b.Set(manyIngresses(50)[7]) // equal: no change
	if again, changed := b.Build(); again != first || changed != nil {
		t.Errorf("an equal Ingress made a new table: %v", changed)
	}
	b.Set(ingress("ns7/ing7", 7, "h7.example Prefix /other -> s:80"))
	second, changed := b.Build()
	if fmt.Sprint(changed) != "[h7.example]" {
		t.Errorf("recompiled %v, want only h7.example", changed)
	}
	if second.hosts["h8.example"] != first.hosts["h8.example"] {
		t.Error("h8.example was compiled again")
	}
	if got := result(first.Match(request("h7.example/p0"))); got != "s0" {
		t.Errorf("the published table changed: %s", got)
	}
}

// TestExplainAgreesWithMatch: of the candidates in their order, the first that
// matches by the literal definition is the one that Match chose.
func TestExplainAgreesWithMatch(t *testing.T) {
	table := Compile(Options{}, contested(60))
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		r := request(fmt.Sprintf("%s/%s", contestedHosts[rng.IntN(len(contestedHosts))], contestedPaths[rng.IntN(len(contestedPaths))]))
		x := table.Explain(r)
		var first *Route
		for _, p := range x.Paths {
			if first == nil && p.Route.matches(r.Path) {
				first = p.Route
			}
			if p.Chosen != (p.Route == x.Decision.Route) {
				t.Fatalf("%s%s: wrong candidate marked", r.Host, r.Path)
			}
		}
		if (x.Decision.Outcome == ByPath) != (first != nil) || first != nil && first != x.Decision.Route {
			t.Fatalf("%s%s: Match chose %+v, the definition says %+v", r.Host, r.Path, x.Decision.Route, first)
		}
	}
}

var (
	contestedHosts = []string{"a.example", "b.example", "*.example", "*.b.example", "-"}
	contestedPaths = []string{"", "x", "x/", "x/y", "x//y", "X", "x/y/z"}
)

// contested makes Ingresses that fight for few hosts and paths.
func contested(n int) []*Ingress {
	rng := rand.New(rand.NewPCG(5, 6))
	var out []*Ingress
	for i := range n {
		host := contestedHosts[rng.IntN(len(contestedHosts))]
		typ := []string{"Exact", "Prefix"}[rng.IntN(2)]
		path := "/" + contestedPaths[rng.IntN(len(contestedPaths))]
		lines := []string{fmt.Sprintf("%s %s %s -> s%d:80", host, typ, path, i)}
		if rng.IntN(3) == 0 {
			lines = append(lines, fmt.Sprintf("default -> d%d:80", i))
		}
		if host != "-" && rng.IntN(2) == 0 {
			lines = append(lines, fmt.Sprintf("tls %s cert%d", host, rng.IntN(2)))
		}
		if rng.IntN(8) == 0 {
			lines = []string{fmt.Sprintf("default -> g%d:80", i)}
		}
		out = append(out, ingress(fmt.Sprintf("ns%d/i%02d", rng.IntN(3), i), rng.Int64N(4), lines...))
	}
	return out
}

func manyIngresses(n int) []*Ingress {
	out := make([]*Ingress, n)
	for i := range n {
		out[i] = ingress(fmt.Sprintf("ns%d/ing%d", i, i), int64(i),
			fmt.Sprintf("h%d.example Prefix /p0 -> s0:80", i),
			fmt.Sprintf("h%d.example Prefix /p1 -> s1:80", i),
			fmt.Sprintf("h%d.example Exact /p2 -> s2:80", i))
	}
	return out
}
