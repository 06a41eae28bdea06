// Command portico-demo is what the manifests in config/samples lead to: a shop
// page, a JSON echo in two replicas, and a page with live streams. It listens
// on 127.0.0.1 only and needs nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// backends are the demo's servers; the ports are those of
// config/samples/services.yaml.
var backends = []struct {
	name, addr string
	handler    func(name string) http.Handler
}{
	{"shop-1", "127.0.0.1:9201", newShop},
	{"api-1", "127.0.0.1:9202", newEcho},
	{"api-2", "127.0.0.1:9203", newEcho},
	{"live-1", "127.0.0.1:9204", newLive},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "portico-demo:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done, or until a backend cannot be served.
func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return errors.New("takes no arguments: it serves the backends of config/samples on 127.0.0.1:9201 to 9204 until it is stopped")
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, b := range backends {
		listener, err := net.Listen("tcp", b.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		group.Go(func() error { return serve(ctx, listener, b.handler(b.name)) })
		fmt.Printf("demo backend %-6s on http://%s/\n", b.name, b.addr)
	}
	return group.Wait()
}

// serve ends when ctx is done. Streams see it through their requests' context.
func serve(ctx context.Context, listener net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
