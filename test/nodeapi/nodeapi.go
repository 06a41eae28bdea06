//go:build linux

// Package nodeapi is an apiserver in a network namespace that has what it is told
// and nothing else, for programs that run on a node.
package nodeapi

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
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

// Objects are all that there are, by resource. Nothing ever changes.
type Objects map[string][]any

// ServeHTTP implements http.Handler.
func (o Objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case kinds[resource].kind != "":
		_ = json.NewEncoder(w).Encode(Object{"kind": kinds[resource].kind, "apiVersion": kinds[resource].api, "metadata": Object{"resourceVersion": "1"}, "items": o[resource]})
	case strings.Contains(r.URL.Path, "/nodes/"):
		node := o["nodes"][0].(Object)
		_ = json.NewEncoder(w).Encode(Object{"kind": "Node", "apiVersion": "v1", "metadata": node["metadata"], "spec": node["spec"], "status": node["status"]})
	default:
		http.NotFound(w, r)
	}
}

// Serve has the apiserver listen in a namespace until the test ends, and returns
// its URL.
func Serve(t testing.TB, n *netns.Namespace, o Objects) string {
	t.Helper()
	var ln net.Listener
	var err error
	n.Do(func() { ln, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: o}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return "http://" + ln.Addr().String()
}
