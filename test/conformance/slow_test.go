//go:build judges

package conformance

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSlowClients: slowhttptest holds 200 connections as long as it can, which is
// less than it would like, and others are served meanwhile.
func TestSlowClients(t *testing.T) {
	large := strings.Repeat("x", 16<<20)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, large)
	}))
	t.Cleanup(backend.Close)
	e := serve(t, manifests("localhost", backend.Listener.Addr(), "http"))
	for name, args := range map[string][]string{
		"heads":   {"-H", "-i", "5", "-l", "25"},
		"bodies":  {"-B", "-i", "5", "-x", "10", "-s", "100000", "-l", "45"},
		"reading": {"-X", "-n", "1", "-z", "100", "-w", "512", "-y", "1024", "-l", "240"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "http://localhost:" + port(e.http) + "/"
			out, err := exec.CommandContext(t.Context(), "slowhttptest", append(args, "-c", "200", "-r", "100", "-u", url)...).CombinedOutput()
			said := string(out)
			if err != nil || !strings.Contains(said, "No open connections left") || strings.Contains(plain(said), "service available: NO") {
				t.Errorf("%v\n%s", err, said[max(0, len(said)-1500):])
			}
		})
	}
}

// plain is text without colours, and with single spaces.
func plain(s string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, "\x1b[") {
		if _, rest, ok := strings.Cut(part, "m"); ok && i > 0 {
			part = rest
		}
		b.WriteString(part)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// TestTLS: testssl.sh finds nothing that is not in order, except with the
// certificate: nobody but this test knows the CA of localhost.
func TestTLS(t *testing.T) {
	backend := httptest.NewServer(http.NotFoundHandler())
	defer backend.Close()
	e := serve(t, manifests("localhost", backend.Listener.Addr(), "http"))
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "testssl", "--quiet", "--color", "0", "--ip", "127.0.0.1", "-p", "-P", "-s", "-f", "-U", "-S",
		"--csvfile", filepath.Join(dir, "found.csv"), "localhost:"+port(e.https))
	out, runErr := cmd.CombinedOutput()
	found, err := os.ReadFile(filepath.Join(dir, "found.csv"))
	if err != nil || !strings.Contains(string(found), `"TLS1_3"`) {
		t.Fatalf("%v, %v\n%s", runErr, err, out)
	}
	for line := range strings.Lines(string(found)) {
		cells := strings.Split(strings.Trim(line, "\"\n"), `","`)
		if len(cells) < 5 {
			t.Fatalf("%q is not of the form that is known", line)
		}
		id, severity := cells[0], cells[3]
		if strings.HasPrefix(id, "cert_") || id == "engine_problem" {
			continue
		}
		if slices.Contains([]string{"MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL"}, severity) {
			t.Error(strings.TrimSpace(line))
		}
	}
}
