// Package admin serves what operators look at: health, readiness and metrics
// on one address, the table, problems, certificates and profiles on another.
// It only reads what is published; it never builds, and it changes nothing.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"
)

const (
	maxConns       = 64
	maxHeaderBytes = 16 << 10
	// drainTime is how long a stopped server waits for answers under way.
	drainTime = 5 * time.Second
)

// Server serves one handler on one listener, with bounds on everything.
type Server struct {
	listener net.Listener
	server   *http.Server
	log      logr.Logger
}

// NewServer returns a Server that answers GET and HEAD only. write bounds the
// time an answer may take; profiles need more than metrics. It owns the
// listener.
func NewServer(l net.Listener, h http.Handler, write time.Duration, log logr.Logger) *Server {
	return &Server{
		listener: netutil.LimitListener(l, maxConns),
		log:      log,
		server: &http.Server{
			Handler:           readOnly(h),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      write,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    maxHeaderBytes,
		},
	}
}

// Start serves until ctx is done.
func (s *Server) Start(ctx context.Context) error {
	s.server.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(s.listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("admin server on %s: %w", s.listener.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := s.server.Shutdown(drain); err != nil {
		s.log.V(1).Info("admin server cut answers short", "addr", s.listener.Addr().String())
		err = s.server.Close()
		return errors.Join(err, ignoreClosed(<-done))
	}
	return ignoreClosed(<-done)
}

// NeedLeaderElection tells controller-runtime that every replica serves this.
func (*Server) NeedLeaderElection() bool { return false }

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// readOnly refuses every method that could change something, and tells
// browsers to keep and guess nothing.
func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// localName refuses requests for DNS names other than localhost: a web page
// could have its own name resolve to this address and read the answer.
func localName(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(trimBrackets(host)); err != nil && host != "localhost" {
			http.Error(w, "ask by address or as localhost", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func trimBrackets(host string) string {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}
