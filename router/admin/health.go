package admin

import (
	"fmt"
	"net/http"
	"strings"
)

// Check is one condition of readiness.
type Check struct {
	Name string
	// Ready returns why the condition is not met, or nil. It is called for
	// every probe, possibly at once, and must not wait.
	Ready func() error
}

// New returns the handler of /healthz, /readyz and /metrics. A process that
// answers is healthy; it is ready when every check is.
func New(metrics http.Handler, checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, checks) })
	mux.Handle("/metrics", metrics)
	return mux
}

// ready lists the checks that fail, and with ?verbose all of them.
func ready(w http.ResponseWriter, r *http.Request, checks []Check) {
	var b strings.Builder
	status := http.StatusOK
	verbose := r.URL.Query().Has("verbose")
	for _, c := range checks {
		if err := c.Ready(); err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&b, "[-] %s: %v\n", c.Name, err)
		} else if verbose {
			fmt.Fprintf(&b, "[+] %s\n", c.Name)
		}
	}
	if status == http.StatusOK {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	text(w, status, b.String())
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
