//go:build linux

package kubeproxy

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/netns"
)

type (
	object = map[string]any
	list   = []any
)

// kinds are the lists that a node asks for: by resource, kind and API.
var kinds = map[string]struct{ kind, api string }{
	"services": {"ServiceList", "v1"}, "nodes": {"NodeList", "v1"},
	"endpointslices": {"EndpointSliceList", "discovery.k8s.io/v1"}, "servicecidrs": {"ServiceCIDRList", "networking.k8s.io/v1"},
}

// apiserver has these objects, by resource. Nothing ever changes.
type apiserver map[string]list

func (a apiserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost: // an Event
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	case r.FormValue("sendInitialEvents") != "": // refused, so that it lists
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case r.FormValue("watch") != "":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case kinds[resource].kind != "":
		_ = json.NewEncoder(w).Encode(object{"kind": kinds[resource].kind, "apiVersion": kinds[resource].api, "metadata": object{"resourceVersion": "1"}, "items": a[resource]})
	case strings.Contains(r.URL.Path, "/nodes/"):
		node := a["nodes"][0].(object)
		_ = json.NewEncoder(w).Encode(object{"kind": "Node", "apiVersion": "v1", "metadata": node["metadata"], "spec": node["spec"], "status": node["status"]})
	default:
		http.NotFound(w, r)
	}
}

// serve has an apiserver listen in a namespace, and returns its URL.
func serve(t testing.TB, n *netns.Namespace, a apiserver) string {
	t.Helper()
	var ln net.Listener
	var err error
	n.Do(func() { ln, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: a}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return "http://" + ln.Addr().String()
}

// fetch gets a page of a namespace.
func fetch(n *netns.Namespace, address netip.AddrPort, path string) (string, error) {
	var c net.Conn
	var err error
	n.Do(func() { c, err = net.DialTimeout("tcp", address.String(), time.Second) })
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	page, err := io.ReadAll(c)
	return string(page), err
}
