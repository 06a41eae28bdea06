package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/portico-ingress/portico/router/diag"
)

// service is a manifest of a Service with that name.
func service(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata:\n  name: " + name + "\nspec:\n  ports:\n    - port: 80\n"
}

// tree writes files below a new folder and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func names(s *Set) []string {
	var all []string
	for _, svc := range s.Services {
		all = append(all, svc.Name)
	}
	return all
}

func TestLoadFolder(t *testing.T) {
	dir := tree(t, map[string]string{
		"b.yaml": service("b"), "a.yml": service("a"), "sub/c.json": `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"clusterIP":"None"}}`,
		".hidden.yaml": "{", ".git/x.yaml": "{", "b.yaml~": "{", "README.md": "{", "kustomization.yaml": "resources: [b.yaml]",
		"empty.yaml": "", "comment.yaml": "# nothing\n---\n",
	})
	outside := tree(t, map[string]string{"linked.yaml": service("linked"), "folder/no.yaml": service("no")})
	link(t, filepath.Join(outside, "linked.yaml"), filepath.Join(dir, "z.yaml"))
	link(t, filepath.Join(outside, "folder"), filepath.Join(dir, "folder.yaml"))
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, faults := Load(dir)
	if len(faults) > 0 {
		t.Errorf("faults: %s", faultLines(faults))
	}
	if got, want := names(set), []string{"a", "b", "c", "linked"}; !slices.Equal(got, want) {
		t.Errorf("services %v, want %v", got, want)
	}
}

// TestLoadConfigMapMount: the kubelet links every file through ..data to the
// folder of the current version.
func TestLoadConfigMapMount(t *testing.T) {
	dir := tree(t, map[string]string{"..2026_01/shop.yaml": service("shop")})
	link(t, "..2026_01", filepath.Join(dir, "..data"))
	link(t, "..data/shop.yaml", filepath.Join(dir, "shop.yaml"))
	mount := filepath.Join(t.TempDir(), "mount")
	link(t, dir, mount)
	for _, path := range []string{dir, mount} {
		set, faults := Load(path)
		if len(faults) > 0 || !slices.Equal(names(set), []string{"shop"}) {
			t.Errorf("%s: services %v, faults %s", path, names(set), faultLines(faults))
		}
	}
}

func TestLoadFaults(t *testing.T) {
	dir := tree(t, map[string]string{"a.yaml": service("web"), "b.yaml": service("web"), "large.yaml": strings.Repeat("#", maxFileBytes+1)})
	link(t, "nowhere", filepath.Join(dir, "c.yaml"))
	set, faults := Load(dir, filepath.Join(dir, "missing.yaml"), "/dev/null")
	want := []string{
		dir + "/b.yaml:4: Service default/web: metadata.name: the object is already defined in " + dir + "/a.yaml:4; remove one of the two, or rename it",
		dir + "/c.yaml: does not exist; check the path",
		dir + "/large.yaml: is larger than 8 MiB; split it into several files",
		dir + "/missing.yaml: does not exist; check the path",
		`/dev/null: cannot be read: is neither a file nor a folder; pipe it to "-f -"`,
	}
	got := strings.Split(strings.TrimSpace(faultLines(faults)), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("faults:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := names(set); !slices.Equal(got, []string{"web"}) {
		t.Errorf("services %v: the first of the two must stay", got)
	}
}

func TestLoadStdin(t *testing.T) {
	set, faults := LoadFrom(strings.NewReader(service("a")+"bad: field\n"+"---\n"+service("b")), "-")
	if want := "stdin:8: Service default/a: bad: unknown field; known here: apiVersion, kind, metadata, spec, status\n"; faultLines(faults) != want {
		t.Errorf("faults %s, want %s", faultLines(faults), want)
	}
	if got := names(set); !slices.Equal(got, []string{"b"}) {
		t.Errorf("services %v", got)
	}
}

func TestPosition(t *testing.T) {
	text, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, _ := Decode(strings.NewReader(string(text)), "shop.yaml")
	shop := diag.Ref{Kind: "Ingress", Namespace: "default", Name: "shop"}
	for _, c := range []struct {
		ref   diag.Ref
		field string
		line  int
	}{
		{shop, "", 2},
		{shop, "metadata.annotations[portico.dev/ssl-redirect]", 7},
		{shop, `metadata.annotations["portico.dev/ssl-redirect"]`, 7},
		{shop, "metadata.annotations[portico.dev/other]", 6},
		{shop, "spec.tls[0].hosts[1]", 11},
		{shop, "spec.tls[1]", 10},
		{shop, "spec.rules[0].http.paths[0].backend", 19},
		{shop, "spec.rules[0].http.paths[0].backend.service.port.name", 20},
		{shop, "spec.rules[0].http.paths[1].backend.service.name", 20}, // the alias leads to where it is written
		{shop, "spec.rules[0].host.not.there", 14},
		{shop, "spec.rules[x", 13},
		{diag.Ref{Kind: "IngressClass", Name: "portico"}, "spec.controller", 28},
		{diag.Ref{Kind: "Endpoints", Namespace: "other", Name: "old"}, "subsets[0]", 50},
	} {
		file, line, ok := set.Position(c.ref, c.field)
		if !ok || file != "shop.yaml" || line != c.line {
			t.Errorf("Position(%s, %q) = %s:%d %v, want line %d", c.ref, c.field, file, line, ok, c.line)
		}
	}
	if _, _, ok := set.Position(diag.Ref{Kind: "Ingress", Namespace: "default", Name: "other"}, ""); ok {
		t.Error("an unknown object has a position")
	}
}

// BenchmarkDecode reads a thousand Ingresses from one file.
func BenchmarkDecode(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, `---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop-%[1]d
spec:
  rules:
    - host: shop-%[1]d.example.com
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: web, port: {number: 80}}}
          - path: /api
            pathType: Prefix
            backend: {service: {name: api, port: {name: http}}}
`, i)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if set, faults := Decode(strings.NewReader(text.String()), "shop.yaml"); len(faults) > 0 || len(set.Ingresses) != 1000 {
			b.Fatal(faults)
		}
	}
}

func serviceRef(name string) diag.Ref {
	return diag.Ref{Kind: "Service", Namespace: "default", Name: name}
}
