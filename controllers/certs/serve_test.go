package certs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// keeper is a Controller that runs nothing, with stored certificates of issuer old.
func keeper(t testing.TB, owner func(int) string, sets ...[]string) *Controller {
	t.Helper()
	ca := testcert.New(t)
	c := &Controller{records: make(map[string]stored), standIn: make(map[certstore.SecretRef]struct{}), stapler: acme.NewStapler(acme.StaplerOptions{})}
	c.opts.Now = func() time.Time { return noon }
	for n, hosts := range sets {
		r := &acme.Record{ID: acme.ID(owner(n), "old", hosts), Owner: owner(n), Names: hosts, Issuer: "old", Sequence: int64(n + 1)}
		r.Chain, r.Key = ca.LeafOf(testcert.ECDSA, noon.Add(-time.Hour), noon.Add(30*24*time.Hour), hosts...)
		cert, err := certstore.Parse(r.Chain, r.Key)
		if err != nil {
			t.Fatal(err)
		}
		c.records[r.ID] = stored{r, cert, r}
	}
	return c
}

// TestCovering: only what is for one of the names is looked at, and all of it.
func TestCovering(t *testing.T) {
	sets := [][]string{{"a.example"}, {"a.example", "b.example"}, {"*.w.example"}, {"x.w.example"}, {"c.example"}, {"c.example"}}
	owners := []string{"a", "a", "a", "a", "a", "b"}
	x := keeper(t, func(n int) string { return owners[n] }, sets...).byName()
	for names, want := range map[string]string{
		"a.example":             "[[a.example] [a.example b.example]]",
		"b.example":             "[[a.example b.example]]",
		"a.example b.example":   "[[a.example] [a.example b.example]]",
		"x.w.example":           "[[*.w.example] [x.w.example]]",
		"y.w.example":           "[[*.w.example]]",
		"*.w.example":           "[[*.w.example]]",
		"x.y.w.example":         "[]",
		"c.example":             "[[c.example]]",
		"d.example":             "[]",
		"w.example":             "[]",
		"b.example x.w.example": "[[a.example b.example] [*.w.example] [x.w.example]]",
	} {
		found := make(map[string]bool)
		for _, r := range x.covering("a", strings.Fields(names)) {
			if r.Owner != "a" || found[r.ID] {
				t.Errorf("%s: %v of %s", names, r.Names, r.Owner)
			}
			found[r.ID] = true
		}
		got := make([][]string, 0)
		for n, hosts := range sets {
			if owners[n] == "a" && found[acme.ID("a", "old", hosts)] {
				got = append(got, hosts)
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", names, got, want)
		}
	}
}

// BenchmarkStandIns is what a plan costs to find certificates for 2,000 entries of
// one namespace that ask another issuer than before, which has issued none yet.
func BenchmarkStandIns(b *testing.B) {
	const entries = 2000
	var sets [][]string
	p := new(plan)
	for n := range entries {
		names := []string{fmt.Sprintf("h%d.example", n)}
		sets = append(sets, names)
		p.entries = append(p.entries, entry{served: true, secret: certstore.SecretRef{Namespace: "a", Name: fmt.Sprint("tls", n)}, state: secretState{phase: absent},
			wanted: acme.Wanted{Owner: "a", Issuer: &acme.Issuer{Name: "new"}, Names: names}})
	}
	c := keeper(b, func(int) string { return "a" }, sets...)
	for b.Loop() {
		if got := c.standIns(p); len(got) != entries {
			b.Fatalf("%d stand in", len(got))
		}
	}
}
