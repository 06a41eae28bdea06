package folder

import (
	"strings"
	"testing"

	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/router/diag"
)

// TestMended: mended is what is wrong no more with an object that is still there,
// not what is told in other words, or whose object is gone.
func TestMended(t *testing.T) {
	const web = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {defaultBackend: {service: {name: web, port: {number: 80}}}}\n"
	load := func(text string) *manifest.Set {
		set, faults := manifest.LoadFrom(strings.NewReader(text), manifest.Stdin)
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return set
	}
	there, gone := load(web), load(strings.Replace(web, "name: web}\n", "name: other}\n", 1))
	p := diag.Problem{Object: diag.Ref{Kind: "Ingress", Namespace: "default", Name: "web"}, Field: "spec.tls[0]", Reason: "Wrong", Message: "tried once"}
	again := p
	again.Message = "tried twice"
	for name, c := range map[string]struct {
		set    *manifest.Set
		after  []diag.Problem
		mended bool
	}{
		"nothing is wrong":       {there, nil, true},
		"said in other words":    {there, []diag.Problem{again}, false},
		"the Ingress is deleted": {gone, nil, false},
	} {
		var out strings.Builder
		r := newReporter(&out)
		r.problems(there, []diag.Problem{p})
		r.problems(c.set, c.after)
		if got := strings.Contains(out.String(), "mended: "); got != c.mended {
			t.Errorf("%s: %s", name, out.String())
		}
		if n := strings.Count(out.String(), "tried twice"); n != len(c.after) {
			t.Errorf("%s: the news is told %d times", name, n)
		}
	}
}
