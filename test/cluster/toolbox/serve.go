package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// unready makes the server fail its readiness probe while it exists:
//
//	kubectl exec POD -- touch /tmp/unready
const unready = "/tmp/unready"

// identity is what the server answers every other path with.
type identity struct {
	Pod    string `json:"pod"`    // the host name
	Client string `json:"client"` // the address that the server sees
	Host   string `json:"host"`
	Path   string `json:"path"`
}

// serve serves until SIGTERM, and then finishes the requests in flight.
func serve(args []string) error {
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: only(args), Handler: handler(pod, unready), ReadHeaderTimeout: patience}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		done <- server.Shutdown(ctx)
	})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

// handler answers /ready with 503 while the file exists.
func handler(pod, unready string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(unready); err == nil {
			http.Error(w, unready+" exists", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(identity{pod, r.RemoteAddr, r.Host, r.URL.Path})
	})
	return mux
}
