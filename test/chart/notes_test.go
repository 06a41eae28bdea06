package chart

import (
	"strings"
	"testing"
)

// notes are what helm tells after an installation.
func notes(t *testing.T, args ...string) string {
	t.Helper()
	out, err := helm(t, append([]string{"install", "edge", chart, "-n", "portico-system", "--dry-run=client"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(out, "\nNOTES:\n")
	if !ok {
		t.Fatalf("no notes in\n%s", out)
	}
	return text
}

// TestNotes: the notes tell what to do next with the names that were rendered,
// and what is true of this installation.
func TestNotes(t *testing.T) {
	forEach(t, func(t *testing.T, name, _ string) {
		golden(t, name+".notes.golden.txt", notes(t, "-f", "testdata/"+name+".values.yaml"))
	})
}

// TestNotesByType: where Portico is reached depends on the Service, and so does
// what is written into Ingresses.
func TestNotesByType(t *testing.T) {
	for set, want := range map[string][]string{
		"service.type=NodePort":                         {"only nodes that run a pod answer", "its ADDRESS is the Service's cluster IP, of no use outside"},
		"service.type=ClusterIP,publish.status=false":   {"only from inside of the cluster", "its ADDRESS stays as it is"},
		"publish.service=false,rbac.create=false":       {"its ADDRESS stays empty", "give the account edge-portico-prove the rights"},
		"hostPorts.enabled=true,service.type=ClusterIP": {"ports 80 and 443 of the nodes", "In a rolling update a node refuses connections"},
	} {
		text := notes(t, "--set", set)
		for _, words := range want {
			if !strings.Contains(text, words) {
				t.Errorf("%s: the notes lack %q:\n%s", set, words, text)
			}
		}
	}
}
