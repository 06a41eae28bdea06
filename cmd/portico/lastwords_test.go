package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestLastResponse: the last response of a TLS connection arrives whole, and its end
// is not to be taken for a cut.
func TestLastResponse(t *testing.T) {
	addr, roots, _, stop := serveLocal(t, "--acme-dir", t.TempDir())
	defer stop()
	for name, request := range map[string]string{
		"close":      "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n",
		"1.0":        "GET / HTTP/1.0\r\nHost: a.localhost\r\n\r\n",
		"malformed":  "GET / HTTP/1.1\r\nHost : a.localhost\r\n\r\n",
		"body":       "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf",
		"with more":  "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n",
		"persistent": "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\nGET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "a.localhost", RootCAs: roots})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, request)
			got, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 ") || !strings.Contains(string(got), "request id: ") {
				t.Errorf("%v, %q", err, got)
			}
		})
	}
}
