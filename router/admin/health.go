package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Check is one condition of readiness.
type Check struct {
	Name  string
	Ready bool
	// Detail says what is waited for, or what is degraded although ready;
	// empty if there is nothing to say.
	Detail string
}

// Checks returns the conditions of readiness as they are now. It is called for
// every probe, possibly at once, and must not wait.
type Checks func() []Check

// New returns the handler of /healthz, /readyz and /metrics. A process that
// answers is healthy; it is ready when every check is.
func New(metrics http.Handler, checks Checks) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, checks()) })
	mux.Handle("/metrics", metrics)
	return mux
}

// ready lists the checks that fail, and with ?verbose all of them. As with a
// kube-apiserver, ?exclude=NAME leaves one out.
func ready(w http.ResponseWriter, r *http.Request, checks []Check) {
	var b strings.Builder
	status := http.StatusOK
	query := r.URL.Query()
	verbose := query.Has("verbose")
	for _, c := range checks {
		switch {
		case slices.Contains(query["exclude"], c.Name):
			c.Detail = "excluded"
			if verbose {
				line(&b, "[+]", c)
			}
		case !c.Ready:
			status = http.StatusServiceUnavailable
			line(&b, "[-]", c)
		case verbose:
			line(&b, "[+]", c)
		}
	}
	if status == http.StatusOK {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	text(w, status, b.String())
}

func line(b *strings.Builder, mark string, c Check) {
	fmt.Fprintf(b, "%s %s", mark, c.Name)
	if c.Detail != "" {
		fmt.Fprintf(b, ": %s", c.Detail)
	}
	b.WriteByte('\n')
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
