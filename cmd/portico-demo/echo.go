package main

import (
	"encoding/json"
	"io"
	"net/http"
)

// field is one header field.
type field struct{ Name, Value string }

// forwardedNames are what a proxy tells its backend of the request.
var forwardedNames = []string{
	"X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip",
}

func forwarded(r *http.Request) []field {
	var fields []field
	for _, name := range forwardedNames {
		if v := r.Header.Get(name); v != "" {
			fields = append(fields, field{name, v})
		}
	}
	return fields
}

// echo is the answer of the JSON backend.
type echo struct {
	Backend string      `json:"backend"`
	Method  string      `json:"method"`
	Host    string      `json:"host"`
	URI     string      `json:"uri"`
	Proto   string      `json:"proto"`
	Header  http.Header `json:"header"`
	Body    string      `json:"body,omitempty"`
}

// maxEcho bounds how much of a body is sent back.
const maxEcho = 64 << 10

// newEcho answers with what arrived.
func newEcho(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxEcho))
		if err != nil {
			http.Error(w, "cannot read the body", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		_ = out.Encode(echo{name, r.Method, r.Host, r.RequestURI, r.Proto, r.Header, string(body)})
	})
}
