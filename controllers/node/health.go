package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Health answers /healthz and /livez as kube-proxy does: both with 503 if
// changes do not reach the kernel in time, and /healthz also if the node is
// about to be deleted, so that load balancers stop sending new connections.
// /readyz, which kube-proxy does not have, answers 503 and what is waited for
// until the first complete picture is in the kernel.
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
	mux.HandleFunc("GET /readyz", c.ready)
	return mux
}

func (c *Controller) ready(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-c.Programmed():
		fmt.Fprintln(w, "ok")
		return
	default:
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, why := range c.Waiting() {
		fmt.Fprintln(w, why)
	}
	fmt.Fprintln(w, errNotProgrammed)
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
