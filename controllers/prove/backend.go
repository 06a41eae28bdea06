package prove

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// backendField of a response says which pod answered.
const backendField = "Portico-Prove-Pod"

// farewell is how long a pod serves on after it was told to end: time for its
// endpoint to be withdrawn everywhere, which a preStop hook with sleep would give
// to a program that does not do so itself.
const farewell = 5 * time.Second

// ServeBackend is the application whose roll-out is proved. It serves until ctx
// ends, some seconds longer, and then finishes what is in flight.
func ServeBackend(ctx context.Context, ln net.Listener, pod string) error {
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return // nobody waits for an answer
		}
		w.Header().Set(backendField, pod)
		fmt.Fprintf(w, "%s %s at %s, %d bytes\n", r.Method, r.URL.Path, pod, n)
	})}
	ended := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		<-time.After(farewell)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended <- server.Shutdown(ctx)
	})()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// ListenBackend opens the port on which the pods of the application serve.
func ListenBackend(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", ":"+strconv.Itoa(backendPort))
}
