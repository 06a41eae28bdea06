package ingress

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
)

func TestApiserverFallsSilent(t *testing.T) {
	var log []string
	a := NewApiserver(funcr.New(func(_, args string) { log = append(log, args) }, funcr.Options{}))
	var answer func() (*http.Response, error)
	rt := a.Wrap(roundTripper(func(*http.Request) (*http.Response, error) { return answer() }))
	status := func(code int) func() (*http.Response, error) {
		return func() (*http.Response, error) {
			return &http.Response{StatusCode: code, Status: http.StatusText(code)}, nil
		}
	}
	failure := func(err error) func() (*http.Response, error) {
		return func() (*http.Response, error) { return nil, err }
	}
	for _, step := range []struct {
		name   string
		answer func() (*http.Response, error)
		detail string // part of it; empty: none
		lines  int    // logged so far
	}{
		{"answers", status(200), "", 0},
		{"we gave up", failure(context.Canceled), "", 0},
		{"refuses us", status(403), "", 0},
		{"is gone", failure(errors.New("connection refused")), "connection refused", 1},
		{"is gone for long", failure(errors.New("no route")), "no route", 1},
		{"we gave up then", failure(context.Canceled), "no route", 1},
		{"starts", status(503), "Service Unavailable", 1},
		{"is back", status(200), "", 2},
		{"stays", status(404), "", 2},
	} {
		answer = step.answer
		_, _ = rt.RoundTrip(nil)
		got := a.check()
		if !got.Ready || (step.detail == "") != (got.Detail == "") || !strings.Contains(got.Detail, step.detail) || len(log) != step.lines {
			t.Errorf("%s: %+v, want %q; log %q", step.name, got, step.detail, log)
		}
	}
}
