package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/net/websocket"
)

// unready makes the server fail its readiness probe while it exists:
//
//	kubectl exec POD -- touch /tmp/unready
const unready = "/tmp/unready"

// identity is what the server answers most paths with.
type identity struct {
	Pod    string `json:"pod"`    // the host name
	Client string `json:"client"` // the address that the server sees
	Host   string `json:"host"`
	Path   string `json:"path"`
}

// serve serves until SIGTERM, and then finishes the requests in flight. With
// "abrupt" as second argument it exits at once, as programs do that nobody
// taught to end.
func serve(args []string) error {
	abrupt := len(args) == 2 && args[1] == "abrupt"
	if len(args) != 1 && !abrupt {
		return errors.New("usage: serve ADDRESS [abrupt]")
	}
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: args[0], Handler: handler(pod, unready, os.Stdout), ReadHeaderTimeout: patience, Protocols: &protocols}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		if abrupt {
			os.Exit(0)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		done <- server.Shutdown(ctx)
	})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

// handler answers /ready with 503 while the file exists, and sends back what it
// gets at /echo, a WebSocket, and at /echo.Echo/Stream, a gRPC method. Whatever
// is POSTed elsewhere is a line of its log, so that a test can see what came
// twice.
func handler(pod, unready string, log io.Writer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(unready); err == nil {
			http.Error(w, unready+" exists", http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/echo", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	mux.HandleFunc("POST /echo.Echo/Stream", stream)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // nobody waits for an answer
			}
			fmt.Fprintf(log, "POST %q\n", body)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(identity{pod, r.RemoteAddr, r.Host, r.URL.Path})
	})
	return mux
}

// stream sends gRPC messages back as they come. They need not be understood for
// that.
func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Body.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	w.Header().Set("Grpc-Status", "0")
}
