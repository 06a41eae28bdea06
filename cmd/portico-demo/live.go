package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// beat is how often the live streams send the time.
const beat = time.Second

// newLive serves a page, a stream of server-sent events and a WebSocket, told
// apart by the end of the path: what comes before is up to the Ingress.
func newLive(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			events(w, r, name)
		case strings.HasSuffix(r.URL.Path, "/clock"):
			clock(w, r, name)
		default:
			render(w, r, "live.html", name)
		}
	})
}

// events sends the time as server-sent events until the client leaves.
func events(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for now := time.Now(); ; {
		if _, err := fmt.Fprintf(w, "data: %s from %s\n\n", now.Format(time.TimeOnly), name); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case now = <-ticker.C:
		}
	}
}

// clock sends the time over a WebSocket, and sends back what it is sent.
func clock(w http.ResponseWriter, r *http.Request, name string) {
	ws, err := accept(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUpgradeRequired)
		return
	}
	defer ws.conn.Close()
	messages := make(chan string)
	go func() {
		defer close(messages)
		for {
			text, err := ws.read()
			if err != nil {
				return
			}
			select {
			case messages <- text:
			case <-r.Context().Done():
				return
			}
		}
	}()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	text := time.Now().Format(time.TimeOnly) + " from " + name
	for {
		if ws.write(opText, []byte(text)) != nil {
			break
		}
		select {
		case <-r.Context().Done():
			return
		case now := <-ticker.C:
			text = now.Format(time.TimeOnly) + " from " + name
		case message, open := <-messages:
			if !open {
				return
			}
			text = "you said: " + message
		}
	}
	_ = ws.conn.Close()
	for range messages { // ends when the reader sees the closed connection
	}
}
