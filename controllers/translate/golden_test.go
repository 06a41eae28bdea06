package translate_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// TestGolden translates and compiles testdata/*.yaml as a cluster would. A new
// case is a new file: write x.yaml, run with -update, read what it wrote.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			set, faults := manifest.Load(file)
			if len(faults) > 0 {
				t.Fatalf("fixture is faulty: %v", faults)
			}
			objects := &translate.Objects{
				Ingresses: set.Ingresses, Classes: set.Classes, Services: set.Services,
				Slices: set.Slices, Endpoints: set.Endpoints, Secrets: set.Secrets,
			}
			table, problems := render(optionsFor(file), objects)
			base := strings.TrimSuffix(file, ".yaml")
			compare(t, base+".table", table)
			compare(t, base+".problems", problems)
			for range 20 { // the order of the objects leaves no trace
				shuffle(objects)
				if again, p := render(optionsFor(file), objects); again != table || p != problems {
					t.Fatalf("another order gives another result:\n%s\n%s", again, p)
				}
			}
		})
	}
}

func optionsFor(file string) translate.Options {
	return translate.Options{
		ExternalNames: strings.Contains(file, "externalname"),
		Folder:        strings.Contains(file, "folder"),
		CheckAddr:     func(ap netip.AddrPort) error { return upstream.DialPolicy{}.Check(ap) },
	}
}

func render(opts translate.Options, objects *translate.Objects) (table, problems string) {
	world := translate.All(opts, objects)
	var ings []*router.Ingress
	var all []diag.Problem
	for _, e := range world.Entries {
		ings = append(ings, e.Ingress)
		all = append(all, e.Problems...)
	}
	compiled := router.Compile(router.Options{}, ings)
	all = diag.Sort(append(append(all, world.Problems...), compiled.Problems()...))

	var b strings.Builder
	b.WriteString(compiled.String())
	keys := slices.SortedFunc(maps.Keys(world.Pools), func(a, b upstream.Key) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		s := world.Pools[k]
		fmt.Fprintf(&b, "pool %s %s\n", k, s.Reason)
		if s.Protocol != policy.ProtocolDefault {
			fmt.Fprintf(&b, "  %s to %s\n", s.Protocol, strings.Join(s.Names, ", "))
		}
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "  %s ready=%v serving=%v terminating=%v\n", address(e), e.Ready, e.Serving, e.Terminating)
		}
	}
	var skipped []string
	for _, s := range world.Skipped {
		skipped = append(skipped, fmt.Sprintf("skipped %s: %s\n", s.Object, s.Why))
	}
	slices.Sort(skipped)
	b.WriteString(strings.Join(skipped, ""))

	var p strings.Builder
	for _, problem := range all {
		fmt.Fprintln(&p, problem)
	}
	return b.String(), p.String()
}

func address(e upstream.Endpoint) string {
	if e.Host != "" {
		return fmt.Sprintf("%s:%d", e.Host, e.Port)
	}
	return e.Addr.String()
}

func shuffle(o *translate.Objects) {
	rand.Shuffle(len(o.Ingresses), func(i, j int) { o.Ingresses[i], o.Ingresses[j] = o.Ingresses[j], o.Ingresses[i] })
	rand.Shuffle(len(o.Slices), func(i, j int) { o.Slices[i], o.Slices[j] = o.Slices[j], o.Slices[i] })
	rand.Shuffle(len(o.Services), func(i, j int) { o.Services[i], o.Services[j] = o.Services[j], o.Services[i] })
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run with -update to write it", err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n--- got\n%s--- want\n%s", file, got, want)
	}
}
