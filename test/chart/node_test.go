package chart

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What follows is about the chart of the node component.
const (
	nodeChart    = "../../charts/portico-node"
	nodeTestdata = "testdata/node"
)

func forEachNode(t *testing.T, test func(t *testing.T, name, text string)) {
	t.Helper()
	forEachIn(t, nodeChart, nodeTestdata, test)
}

func TestNodeGolden(t *testing.T) {
	forEachNode(t, func(t *testing.T, name, text string) {
		golden(t, filepath.Join("node", name+".golden.yaml"), text)
		if out, err := helm(t, "lint", "--strict", nodeChart, "-f", filepath.Join(nodeTestdata, name+".values.yaml")); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestNodeRefusedValues: above all, there is no default for the apiserver.
func TestNodeRefusedValues(t *testing.T) {
	if _, err := helm(t, "template", "edge", nodeChart); err == nil || !strings.Contains(err.Error(), "/apiserver/host") {
		t.Errorf("without the address of the apiserver: %v", err)
	}
	for set, want := range map[string]string{
		"apiserver.host=https://192.0.2.1": "host",
		"apiserver.port=0":                 "port",
		"apiServer.host=192.0.2.1":         "apiServer",
		"externalIPs={some}":               "externalIPs",
		"detectLocalMode=Magic":            "detectLocalMode",
		"clusterCIDR={10.0.0.1}":           "clusterCIDR",
	} {
		if _, err := helm(t, "template", "edge", nodeChart, "--set", "apiserver.host=192.0.2.1", "--set", set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", set, err)
		}
	}
}

// TestNodeServerTakesIt hands everything to a real apiserver, and the pods to
// its admission.
func TestNodeServerTakesIt(t *testing.T) {
	c := server(t)
	forEachNode(t, func(t *testing.T, name, text string) {
		serverTakes(t, c, text)
		template := podTemplate(t, text)
		template.Spec.ServiceAccountName = "default"
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "portico-system", Name: "default"}}
		if err := client.IgnoreAlreadyExists(c.Create(t.Context(), account)); err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "portico-system", Name: "p", Labels: template.Labels}, Spec: template.Spec}
		if err := create(t.Context(), c, pod); err != nil {
			t.Error(err)
		}
	})
}

// usedByNode is every right of the node component.
var usedByNode = rights{
	"services.":                       {"get", "list", "watch"},
	"nodes.":                          {"get", "list", "watch"},
	"endpointslices.discovery.k8s.io": {"get", "list", "watch"},
	"servicecidrs.networking.k8s.io":  {"get", "list", "watch"},
	"events.":                         {"create", "patch"},
}

func TestNodeRights(t *testing.T) {
	forEachNode(t, func(t *testing.T, _, text string) {
		roles := 0
		for _, u := range objects(t, text) {
			switch u.GetKind() {
			case "ClusterRole":
				roles++
				for _, rule := range as[rbacv1.ClusterRole](t, u).Rules {
					checkRule(t, u.GetName(), rule, usedByNode)
				}
			case "Role":
				t.Errorf("Role %s: one ClusterRole is enough", u.GetName())
			}
		}
		if roles != 1 {
			t.Errorf("%d ClusterRoles", roles)
		}
	})
}

// TestNodePrivileges: one capability and the host's network, nothing else; and
// a pod that needs no Service to start.
func TestNodePrivileges(t *testing.T) {
	forEachNode(t, func(t *testing.T, name, text string) {
		spec := podTemplate(t, text).Spec
		if !spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.DNSPolicy != corev1.DNSDefault || spec.PriorityClassName != "system-node-critical" {
			t.Errorf("host network %v, PIDs %v, IPC %v, DNS %s, priority %s", spec.HostNetwork, spec.HostPID, spec.HostIPC, spec.DNSPolicy, spec.PriorityClassName)
		}
		if len(spec.Tolerations) != 1 || spec.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
			t.Errorf("tolerations %v", spec.Tolerations)
		}
		if s := spec.Containers[0].SecurityContext; *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) {
			t.Errorf("security context %v", s)
		}
		if mounts := name == "extras"; mounts != (len(spec.Volumes) > 0) { // setSysctls
			t.Errorf("volumes %v", spec.Volumes)
		}
	})
}

// TestNodeFlags: every flag that the chart gives exists, and the values are
// taken.
func TestNodeFlags(t *testing.T) {
	binary := program(t, "portico-node")
	forEachNode(t, func(t *testing.T, _, text string) { takesFlags(t, binary, text) })
}

func TestNodeNotes(t *testing.T) {
	out, err := helm(t, "install", "edge", nodeChart, "-n", "kube-system", "--dry-run=client", "--set", "apiserver.host=192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"https://192.0.2.1:6443", "rollout status daemonset/edge-portico-node", "/portico-node check", "--cleanup", "clusterCIDR is empty"} {
		if !strings.Contains(out, want) {
			t.Errorf("the notes lack %q", want)
		}
	}
}
