//go:build e2e && linux

package e2e

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/cluster"
)

// ways are what beginners are taught about exposing a Service, where it ends at
// an Ingress. Beside the shop there is a Deployment "web", whose pods listen on
// 8080 and whose Service "web" has port 80.
var ways = []struct {
	name     string
	manifest string // POD is the address of one of web's pods
	commands string // of kubectl, a line each
	pages    map[string]string
}{
	{
		name: "ClusterIP with another targetPort",
		commands: `expose deployment web --name=clusterip --port=81 --target-port=8080
			create ingress clusterip --class=portico --rule=clusterip.example.test/*=clusterip:81`,
		pages: map[string]string{"http://clusterip.example.test/": "web"},
	},
	{
		name: "named ports",
		manifest: `
apiVersion: v1
kind: Service
metadata: {name: named}
spec:
  selector: {app: shop}
  ports: [{name: other, port: 90, targetPort: 9999}, {name: page, port: 91, targetPort: web}]`,
		commands: `create ingress named --class=portico --rule=named.example.test/*=named:page`,
		pages:    map[string]string{"http://named.example.test/": "shop"},
	},
	{
		name: "no selector, Endpoints by hand",
		manifest: `
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec: {ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: by-hand}
subsets: [{addresses: [{ip: POD}], ports: [{port: 8080}]}]`,
		commands: `create ingress by-hand --class=portico --rule=by-hand.example.test/*=by-hand:80`,
		pages:    map[string]string{"http://by-hand.example.test/": "web"},
	},
	{
		name: "no selector, an EndpointSlice by hand",
		manifest: `
apiVersion: v1
kind: Service
metadata: {name: slice}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: slice-1, labels: {kubernetes.io/service-name: slice}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [POD]}]`,
		commands: `create ingress slice --class=portico --rule=slice.example.test/*=slice:http`,
		pages:    map[string]string{"http://slice.example.test/": "web"},
	},
	{
		name: "headless",
		commands: `expose deployment web --name=headless --port=8080 --cluster-ip=None
			create ingress headless --class=portico --rule=headless.example.test/*=headless:8080`,
		pages: map[string]string{"http://headless.example.test/": "web"},
	},
	{
		name:     "Ingress with one host and two paths",
		commands: `create ingress paths --class=portico --rule=paths.example.test/web*=web:80 --rule=paths.example.test/shop*=shop:80`,
		pages:    map[string]string{"http://paths.example.test/web/a": "web", "http://paths.example.test/shop/a": "shop"},
	},
	{
		name:     "Ingress with two hosts",
		commands: `create ingress hosts --class=portico --rule=one.example.test/*=web:80 --rule=two.example.test/*=shop:80`,
		pages:    map[string]string{"http://one.example.test/": "web", "http://two.example.test/": "shop"},
	},
	{
		name: "Ingress with TLS",
		commands: `create secret tls secure-tls --cert=DIR/tls.crt --key=DIR/tls.key
			create ingress secure --class=portico --rule=secure.example.test/*=web:80,tls=secure-tls`,
		pages: map[string]string{"https://secure.example.test/": "web"},
	},
}

func (e *edge) road(t *testing.T) {
	e.kubectl(t, "", "create", "deployment", "web", "--image="+cluster.TestImage, "--replicas=2")
	e.kubectl(t, "", "expose", "deployment", "web", "--port=80", "--target-port=8080")
	e.rollout(t, "deployment/web")
	pod := e.kubectl(t, "", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	certs := e.keyPair(t, "secure.example.test")
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			if w.manifest != "" {
				e.kubectl(t, strings.ReplaceAll(w.manifest, "POD", pod), "apply", "-f", "-")
			}
			for command := range strings.Lines(strings.ReplaceAll(w.commands, "DIR", certs)) {
				e.kubectl(t, "", strings.Fields(command)...)
			}
			for page, from := range w.pages {
				e.shows(t, page, e.balancer, from)
			}
		})
	}
	t.Run("NodePort", e.nodePort)
	t.Run("LoadBalancer", e.loadBalancer)
	t.Run("ExternalName", e.externalName)
	t.Run("old manifests", e.oldManifests)
}

// keyPair writes a certificate and its key into a folder, as tls.crt and tls.key.
func (e *edge) keyPair(t *testing.T, host string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cert, key := e.ca.Leaf(host)
	for name, text := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shows waits until a page comes from a pod of a Deployment.
func (e *edge) shows(t *testing.T, page string, at netip.Addr, deployment string) {
	t.Helper()
	e.eventually(t, page, func() error {
		got, err := e.page(t, page, at)
		if err != nil || !strings.Contains(got, `"pod":"`+deployment+`-`) {
			return fmt.Errorf("want a pod of %s, got %v\n%s", deployment, err, got)
		}
		return nil
	})
}

// page is what curl gets from an address, from outside of the nodes.
func (e *edge) page(t *testing.T, page string, at netip.Addr) (string, error) {
	t.Helper()
	u, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--fail-with-body", "--max-time", "20",
		"--cacert", e.caFile, "--connect-to", u.Hostname()+":"+port+":"+at.String()+":"+port, page).CombinedOutput()
	return string(out), err
}

func (e *edge) nodePort(t *testing.T) {
	e.kubectl(t, "", "expose", "deployment", "web", "--name=nodeport", "--type=NodePort", "--port=8080")
	port := e.kubectl(t, "", "get", "service", "nodeport", "-o", "jsonpath={.spec.ports[0].nodePort}")
	for _, node := range e.Nodes() {
		e.shows(t, "http://"+node.Name+":"+port+"/", node.Address, "web")
	}
}

func (e *edge) loadBalancer(t *testing.T) {
	e.kubectl(t, "", "expose", "deployment", "web", "--name=balanced", "--type=LoadBalancer", "--port=80", "--target-port=8080")
	address := e.Balancer(2)
	e.assign(t, "default", "balanced", address)
	e.shows(t, "http://balanced.example.test/", address, "web")
}

// externalName: refused, which an Event says, until a flag allows it.
func (e *edge) externalName(t *testing.T) {
	e.kubectl(t, "", "create", "service", "externalname", "outside", "--external-name=web.default.svc.cluster.local")
	e.kubectl(t, "", "create", "ingress", "outside", "--class=portico", "--rule=outside.example.test/*=outside:80")
	e.says(t, "--allow-external-names", "describe", "ingress", "outside")
	if got, err := e.page(t, "http://outside.example.test/", e.balancer); err == nil || !strings.Contains(err.Error()+got, "503") {
		t.Errorf("without the flag: %v\n%s", err, got)
	}
	e.upgrade(t, "--set", "allowExternalNames=true")
	e.shows(t, "http://outside.example.test/", e.balancer, "web")
}

// says waits until kubectl's answer has the words.
func (e *edge) says(t *testing.T, words string, args ...string) {
	t.Helper()
	e.eventually(t, fmt.Sprintf("%q from kubectl %s", words, strings.Join(args, " ")), func() error {
		if got, err := e.Kubectl(t.Context(), "", args...); err != nil || !strings.Contains(got, words) {
			return fmt.Errorf("got %v\n%s", err, got)
		}
		return nil
	})
}

// oldManifest is how an Ingress was written until Kubernetes 1.18.
const oldManifest = `
apiVersion: extensions/v1beta1
kind: Ingress
metadata:
  name: old
  annotations: {kubernetes.io/ingress.class: portico}
spec:
  rules:
  - host: old.example.test
    http:
      paths: [{path: /, backend: {serviceName: web, servicePort: 80}}]
`

func (e *edge) oldManifests(t *testing.T) {
	if out, err := e.Kubectl(t.Context(), oldManifest, "apply", "-f", "-"); err == nil || !strings.Contains(out, `no matches for kind "Ingress" in version "extensions/v1beta1"`) {
		t.Errorf("the apiserver took it: %v\n%s", err, out)
	}
	convert := exec.CommandContext(t.Context(), e.portico, "convert", "-f", "-")
	convert.Stdin = strings.NewReader(oldManifest)
	current, err := convert.Output()
	if err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, string(current), "apply", "--validate=strict", "-f", "-")
	e.shows(t, "http://old.example.test/", e.balancer, "web")
}
