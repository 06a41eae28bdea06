package node

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Health answers /healthz and /livez as kube-proxy does: both with 503 if
// changes do not reach the kernel in time, and /healthz also if the node is
// about to be deleted, so that load balancers stop sending new connections.
func (c *Controller) Health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h, healthy, eligible := c.state.report()
		h.NodeEligible = &eligible
		c.opts.Metrics.healthz.WithLabelValues(answer(w, h, healthy && eligible)).Inc()
	})
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		h, healthy, _ := c.state.report()
		c.opts.Metrics.livez.WithLabelValues(answer(w, h, healthy)).Inc()
	})
	return mux
}

// answer writes a page and returns its code.
func answer(w http.ResponseWriter, h health, ok bool) string {
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(h)
	return strconv.Itoa(code)
}
