package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/portico-ingress/portico/router/admin"
)

// TestReadinessWhileShuttingDown: who asks whether to begin, and who asks whether
// requests are still served, get their answers at different times.
func TestReadinessWhileShuttingDown(t *testing.T) {
	d := newDrainState()
	pages := admin.New(http.NotFoundHandler(), d.checks)
	get := func(url string) int {
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
		return w.Code
	}
	for _, step := range []struct {
		name            string
		do              func()
		begins, kubelet int
	}{
		{"before", func() {}, 200, 200},
		{"while it accepts", d.begin, 503, 200},
		{"when it does not", func() { close(d.draining) }, 503, 503},
	} {
		step.do()
		if begins, kubelet := get("/readyz"), get("/readyz?exclude=shutdown"); begins != step.begins || kubelet != step.kubelet {
			t.Errorf("%s: %d, and without the check of the shutdown %d", step.name, begins, kubelet)
		}
	}
}
