package conformance

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// TestH2Spec: every case of h2spec, in its strict form, with TLS and with prior
// knowledge. There, one cannot hold: the port speaks HTTP/1.1 as well, so what
// is no preface of HTTP/2 is answered with 400 in HTTP/1.1.
func TestH2Spec(t *testing.T) {
	h2spec := judge(t, "h2spec")
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("a body for the cases about flow control\n"))
	}))
	defer backend.Close()
	e := serve(t, manifests("localhost", backend.Listener.Addr(), "http"))
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"TLS":             {[]string{"-t", "-k", "-p", port(e.https)}, []string{"146 tests, 146 passed, 0 skipped, 0 failed"}},
		"prior knowledge": {[]string{"-p", port(e.http)}, []string{"146 tests, 145 passed, 0 skipped, 1 failed", "× 2: Sends invalid connection preface"}},
	} {
		t.Run(name, func(t *testing.T) {
			// The exit code is 1 if any case fails; the output says which.
			out, err := exec.CommandContext(t.Context(), h2spec, append(tc.args, "-h", "localhost", "-o", "20", "--strict")...).CombinedOutput()
			for _, want := range tc.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%v, want %q\n%s", err, want, failures(string(out)))
				}
			}
		})
	}
}

// failures is the part of h2spec's output that tells what failed.
func failures(out string) string {
	if i := strings.Index(out, "Failures:"); i >= 0 {
		return out[i:]
	}
	return out[max(0, len(out)-2000):]
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
