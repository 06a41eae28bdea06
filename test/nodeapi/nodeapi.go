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
	"reflect"
	"slices"
	"strconv"
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

// Object is an object of the API. It is never written after it was handed over.
type Object = map[string]any

// Objects are all that there are, by resource.
type Objects map[string][]any

// Server is the apiserver. Safe for concurrent use.
type Server struct {
	URL string // const after Serve

	mu      sync.Mutex // protects the following
	objects map[string]map[string]Object
	version int     // of the last change
	events  []event // all there were
	more    chan struct{}
}

// event is a change, as those that watch are told of it.
type event struct {
	version  int
	resource string
	line     []byte
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
	s := &Server{URL: "http://" + ln.Addr().String(), objects: map[string]map[string]Object{}, version: 1, more: make(chan struct{})}
	for resource := range kinds {
		s.objects[resource] = named(o[resource])
	}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return s
}

// named has objects by namespace and name.
func named(all []any) map[string]Object {
	out := make(map[string]Object, len(all))
	for _, o := range all {
		out[name(o.(Object))] = o.(Object)
	}
	return out
}

func name(o Object) string {
	m := o["metadata"].(Object)
	namespace, _ := m["namespace"].(string)
	return namespace + "/" + m["name"].(string)
}

// Modify adds an object, or replaces the one of its name.
func (s *Server) Modify(t testing.TB, resource string, o Object) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(t, "MODIFIED", resource, o)
}

// Update makes the objects of all resources these. Of each resource, those that
// differ are told in the order of their names.
func (s *Server) Update(t testing.TB, o Objects) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range slices.Sorted(maps.Keys(kinds)) {
		old, fresh := s.objects[resource], named(o[resource])
		for _, n := range slices.Sorted(maps.Keys(old)) {
			if fresh[n] == nil {
				s.tell(t, "DELETED", resource, old[n])
			}
		}
		for _, n := range slices.Sorted(maps.Keys(fresh)) {
			switch {
			case old[n] == nil:
				s.tell(t, "ADDED", resource, fresh[n])
			case !reflect.DeepEqual(old[n], fresh[n]):
				s.tell(t, "MODIFIED", resource, fresh[n])
			}
		}
	}
}

// tell carries out one change. The mutex is held.
func (s *Server) tell(t testing.TB, what, resource string, o Object) {
	t.Helper()
	s.version++
	if what == "DELETED" {
		delete(s.objects[resource], name(o))
	} else {
		s.objects[resource][name(o)] = o
	}
	k := kinds[resource]
	shown := maps.Clone(o)
	shown["kind"], shown["apiVersion"] = strings.TrimSuffix(k.kind, "List"), k.api
	m := maps.Clone(o["metadata"].(Object))
	m["resourceVersion"] = strconv.Itoa(s.version)
	shown["metadata"] = m
	line, err := json.Marshal(Object{"type": what, "object": shown})
	if err != nil {
		t.Fatal(err)
	}
	s.events = append(s.events, event{s.version, resource, append(line, '\n')})
	close(s.more)
	s.more = make(chan struct{})
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
		_ = json.NewEncoder(w).Encode(s.list(resource))
	case strings.Contains(r.URL.Path, "/nodes/"):
		if node := s.node(resource); node != nil {
			_ = json.NewEncoder(w).Encode(Object{"kind": "Node", "apiVersion": "v1", "metadata": node["metadata"], "spec": node["spec"], "status": node["status"]})
			return
		}
		http.NotFound(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) node(name string) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects["nodes"]["/"+name]
}

func (s *Server) list(resource string) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := make([]Object, 0, len(s.objects[resource]))
	for _, n := range slices.Sorted(maps.Keys(s.objects[resource])) {
		items = append(items, s.objects[resource][n])
	}
	return Object{
		"kind": kinds[resource].kind, "apiVersion": kinds[resource].api,
		"metadata": Object{"resourceVersion": strconv.Itoa(s.version)}, "items": items,
	}
}

// watch sends what changed since a version, and what changes until the client
// goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, resource string) {
	since, err := strconv.Atoi(r.FormValue("resourceVersion"))
	if err != nil {
		http.Error(w, "a watch needs a resourceVersion", http.StatusBadRequest)
		return
	}
	w.(http.Flusher).Flush()
	for {
		lines, last, more := s.since(resource, since)
		since = last
		for _, line := range lines {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// since returns what those that watch a resource are told after a version, the
// version that this is, and what is closed when there is more.
func (s *Server) since(resource string, version int) (lines [][]byte, last int, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.events, version+1, func(e event, v int) int { return e.version - v })
	for _, e := range s.events[i:] {
		if e.resource == resource {
			lines = append(lines, e.line)
		}
	}
	return lines, s.version, s.more
}
