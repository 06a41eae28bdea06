//go:build linux

// Package nodeapi is an apiserver in a network namespace that has what it is told
// and nothing else, for programs that run on a node. What changes goes to those
// that watch.
package nodeapi

import (
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/portico-ingress/portico/test/netns"
)

// kinds are the lists that a node asks for: by resource, kind and API.
var kinds = map[string]struct{ kind, api string }{
	"services": {"ServiceList", "v1"}, "nodes": {"NodeList", "v1"},
	"endpointslices": {"EndpointSliceList", "discovery.k8s.io/v1"}, "servicecidrs": {"ServiceCIDRList", "networking.k8s.io/v1"},
}

// Object is an object of the API.
type Object = map[string]any

// Objects are all that there are at first, by resource.
type Objects map[string][]any

// Server is the apiserver. Safe for concurrent use.
type Server struct {
	URL     string  // const after Serve
	objects Objects // const

	mu       sync.Mutex // protects the following
	watchers map[watcher]bool
}

// watcher is a client that watches.
type watcher struct {
	resource string
	lines    chan []byte
	gone     <-chan struct{}
}

// Serve has an apiserver listen in a namespace until the test ends.
func Serve(t testing.TB, n *netns.Namespace, o Objects) *Server {
	t.Helper()
	var ln net.Listener
	var err error
	n.Do(func() { ln, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "http://" + ln.Addr().String(), objects: o, watchers: map[watcher]bool{}}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return s
}

// Modify tells those that watch a resource that one of its objects is so now.
// Who lists afterwards gets it as it was.
func (s *Server) Modify(t testing.TB, resource string, o Object) {
	t.Helper()
	k := kinds[resource]
	o = maps.Clone(o)
	o["kind"], o["apiVersion"] = strings.TrimSuffix(k.kind, "List"), k.api
	line, err := json.Marshal(Object{"type": "MODIFIED", "object": o})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	told := 0
	for to := range s.watchers {
		if to.resource != resource {
			continue
		}
		select {
		case to.lines <- append(line, '\n'):
			told++
		case <-to.gone:
		}
	}
	if told == 0 {
		t.Fatalf("nobody watches %s", resource)
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost: // an Event
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	case resource == "version":
		_, _ = io.WriteString(w, `{"gitVersion":"v1.37.2"}`)
	case r.FormValue("sendInitialEvents") != "": // refused, so that it lists
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case r.FormValue("watch") != "":
		s.watch(w, r, resource)
	case kinds[resource].kind != "":
		_ = json.NewEncoder(w).Encode(Object{"kind": kinds[resource].kind, "apiVersion": kinds[resource].api, "metadata": Object{"resourceVersion": "1"}, "items": s.objects[resource]})
	case strings.Contains(r.URL.Path, "/nodes/"):
		node := s.objects["nodes"][0].(Object)
		_ = json.NewEncoder(w).Encode(Object{"kind": "Node", "apiVersion": "v1", "metadata": node["metadata"], "spec": node["spec"], "status": node["status"]})
	default:
		http.NotFound(w, r)
	}
}

// watch sends what changes until the client goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, resource string) {
	me := watcher{resource: resource, lines: make(chan []byte, 1024), gone: r.Context().Done()}
	s.mu.Lock()
	s.watchers[me] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, me)
	}()
	w.(http.Flusher).Flush()
	for {
		select {
		case line := <-me.lines:
			if _, err := w.Write(line); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		case <-me.gone:
			return
		}
	}
}
