package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/portico-ingress/portico/router/diag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden decodes every testdata/x.{yaml,json} and compares what came of it
// with x.objects and x.faults.
func TestGolden(t *testing.T) {
	for _, name := range inputs(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			set, faults := Decode(bytes.NewReader(text), filepath.Base(name))
			base := strings.TrimSuffix(name, filepath.Ext(name))
			golden(t, base+".objects", objects(t, set))
			golden(t, base+".faults", faultLines(faults))
		})
	}
}

func inputs(tb testing.TB) []string {
	var all []string
	for _, pattern := range []string{"testdata/*.yaml", "testdata/*.json"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			tb.Fatalf("no input for %s: %v", pattern, err)
		}
		all = append(all, names...)
	}
	return all
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update if that is meant):\n%s", name, got)
	}
}

// objects writes a set as a golden file: notices, what was ignored, and every
// object with its position.
func objects(t *testing.T, s *Set) string {
	var b strings.Builder
	for _, n := range s.Notices {
		fmt.Fprintf(&b, "# notice: %s\n", strings.ReplaceAll(strings.TrimSpace(n.String()), "\n", "\n#   "))
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Ignored)) {
		fmt.Fprintf(&b, "# ignored: %s: %d\n", kind, s.Ignored[kind])
	}
	write(t, &b, s, "Ingress", s.Ingresses)
	write(t, &b, s, "IngressClass", s.Classes)
	write(t, &b, s, "Service", s.Services)
	write(t, &b, s, "EndpointSlice", s.Slices)
	write(t, &b, s, "Endpoints", s.Endpoints)
	write(t, &b, s, "Secret", s.Secrets)
	return b.String()
}

func write[P metav1.Object](t *testing.T, b *strings.Builder, s *Set, kind string, list []P) {
	for _, o := range list {
		ref := diag.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: "ignored"}
		file, line, ok := s.Position(ref, "")
		if !ok {
			t.Errorf("%s has no position", ref)
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "--- # %s:%d %s\n%s", file, line, ref, text)
	}
}

func faultLines(faults []Fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// FuzzDecode: no input may panic, and what is decoded stays within the bounds:
// every object is named, placed, and in a namespace.
func FuzzDecode(f *testing.F) {
	for _, name := range inputs(f) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, faults := Decode(bytes.NewReader(text), "fuzz.yaml")
		for _, ing := range set.Ingresses {
			ref := diag.Ref{Kind: "Ingress", Namespace: ing.Namespace, Name: ing.Name}
			if _, line, ok := set.Position(ref, "spec.rules[0].host"); !ok || line < 1 || ing.Namespace == "" {
				t.Errorf("%s: position %d %v", ref, line, ok)
			}
		}
		last := 1
		for _, r := range string(text) {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) { // what YAML 1.1 takes for a line break
				last++
			}
		}
		for _, f := range faults {
			if f.Message == "" || f.Line > last {
				t.Errorf("fault beyond line %d: %+v", last, f)
			}
		}
	})
}
