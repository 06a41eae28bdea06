package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

func TestHandler(t *testing.T) {
	file := filepath.Join(t.TempDir(), "unready")
	h := handler("pod-1", file, io.Discard)
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	var got identity
	if err := json.NewDecoder(ask("/a").Body).Decode(&got); err != nil || got.Pod != "pod-1" || got.Path != "/a" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, step := range []struct {
		do   func([]string) error
		want int
	}{
		{exists, http.StatusOK}, // fails, which changes nothing
		{touch, http.StatusServiceUnavailable},
		{exists, http.StatusServiceUnavailable},
		{tools["rm"].run, http.StatusOK},
	} {
		_ = step.do([]string{file})
		if got := ask("/ready").Code; got != step.want {
			t.Errorf("/ready answers %d, want %d", got, step.want)
		}
	}
}

// What is POSTed, and nothing else, is logged.
func TestRecord(t *testing.T) {
	var log bytes.Buffer
	h := handler("pod-1", "", &log)
	for _, r := range []*http.Request{
		httptest.NewRequest("POST", "/", strings.NewReader("order 1")),
		httptest.NewRequest("GET", "/", nil),
		httptest.NewRequest("POST", "/", strings.NewReader("order 1")),
	} {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if want := "POST \"order 1\"\nPOST \"order 1\"\n"; log.String() != want {
		t.Errorf("logged %q, want %q", log.String(), want)
	}
}

func TestEcho(t *testing.T) {
	s := httptest.NewServer(handler("pod-1", "", io.Discard))
	defer s.Close()
	c, err := websocket.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/echo", "", s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, want := range []string{"one", "two"} {
		var got string
		if err := websocket.Message.Send(c, want); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(c, &got); err != nil || got != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestServeUsage(t *testing.T) {
	for _, args := range [][]string{nil, {":0", "politely"}, {":0", "abrupt", "more"}} {
		if err := serve(args); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestDoor(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, file := ln.Addr().String(), filepath.Join(t.TempDir(), "shut")
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- keepDoor(ctx, address, file) }()
	wait := func(open bool) {
		for {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			if (err == nil) == open {
				return
			}
		}
	}
	wait(true)
	if err := touch([]string{file}); err != nil {
		t.Fatal(err)
	}
	wait(false)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wait(true)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wait(false)
}

// TestStream: each message comes back before the next one is sent, and the end
// has a status.
func TestStream(t *testing.T) {
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(handler("pod-1", "", io.Discard))
	s.Config.Protocols = &h2c
	s.Start()
	defer s.Close()
	transport := &http.Transport{Protocols: &h2c}
	defer transport.CloseIdleConnections()
	r, w := io.Pipe()
	resp, err := (&http.Client{Transport: transport}).Post(s.URL+"/echo.Echo/Stream", "application/grpc", io.MultiReader(strings.NewReader("one"), r))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, message := range []string{"one", "two", "three"} {
		if message != "one" {
			io.WriteString(w, message)
		}
		got := make([]byte, len(message))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != message {
			t.Fatalf("%q, %v", got, err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q, %v, %v", rest, err, resp.Trailer)
	}
}
