// Command portico-demo is what the manifests in config/samples lead to: a shop
// page, a JSON echo in two replicas, and a page with live streams. It listens
// on 127.0.0.1 only and needs nothing. An argument is the first of its four ports.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// backends are the demo's servers, each on the port after that of the one before.
var backends = []struct {
	name    string
	handler func(name string) http.Handler
}{{"shop-1", newShop}, {"api-1", newEcho}, {"api-2", newEcho}, {"live-1", newLive}}

// defaultPort is the first port, as config/samples/services.yaml has it.
const defaultPort = 9201

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
	first, err := firstPort(args)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, b := range backends {
		addr := fmt.Sprintf("127.0.0.1:%d", first+i)
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		group.Go(func() error { return serve(ctx, listener, b.handler(b.name)) })
		fmt.Printf("demo backend %-6s on http://%s/\n", b.name, addr)
	}
	return group.Wait()
}

func firstPort(args []string) (int, error) {
	if len(args) == 0 {
		return defaultPort, nil
	}
	port, err := strconv.Atoi(args[0])
	if last := 65536 - len(backends); len(args) > 1 || err != nil || port < 1 || port > last {
		return 0, fmt.Errorf("takes no arguments but one, from 1 to %d: the first of %d ports of 127.0.0.1 on which it serves the backends of config/samples until it is stopped; default: %d", last, len(backends), defaultPort)
	}
	return port, nil
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
