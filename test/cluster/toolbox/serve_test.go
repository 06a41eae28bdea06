package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
)

func TestHandler(t *testing.T) {
	file := filepath.Join(t.TempDir(), "unready")
	h := handler("pod-1", file)
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
