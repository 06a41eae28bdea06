package envtest_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/test/envtest"
)

type roles struct {
	cluster *rbacv1.ClusterRole
	role    *rbacv1.Role // in our own namespace
	storage *rbacv1.Role // in that of account keys and certificates
}

// shippedRoles reads what config/rbac ships.
func shippedRoles(t testing.TB) roles {
	t.Helper()
	data, err := os.ReadFile("../../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var r roles
	for _, doc := range bytes.Split(data, []byte("---\n")) {
		switch {
		case bytes.Contains(doc, []byte("kind: ClusterRole\n")):
			r.cluster = new(rbacv1.ClusterRole)
			err = yaml.UnmarshalStrict(doc, r.cluster)
		case bytes.Contains(doc, []byte("kind: Role\n")):
			role := new(rbacv1.Role)
			if err = yaml.UnmarshalStrict(doc, role); role.Namespace == "portico-acme" {
				r.storage = role
			} else {
				r.role = role
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if r.cluster == nil || r.role == nil || r.storage == nil {
		t.Fatal("config/rbac/role.yaml lacks a role")
	}
	return r
}

// With exactly the permissions we ship everything works in every namespace:
// routes, certificates, status from nodes, Events, election.
func TestShippedPermissions(t *testing.T) {
	c := newCluster(t)
	shipped := shippedRoles(t)
	user := c.namespace + "-user"
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}}
	system := shipped.role.Namespace
	c.createOnce(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}})
	c.createOnce(shipped.cluster)
	c.createOnce(shipped.role)
	c.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: shipped.cluster.Name},
	})
	c.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: user}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: shipped.role.Name},
	})
	c.echoService("one")
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "typed", "shop.example"))
	c.node("n1", corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"})
	labels := map[string]string{"app": c.namespace}
	c.podIn(system, c.namespace, "n1", labels)
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"), rule("shop.example", prefix, "/gone", "missing"), tlsFor("shop-tls", "shop.example"))
	in := c.start(func(s *settings) {
		s.config = envtest.User(t, user)
		s.namespaces = nil
		s.status.Lease = status.Lease{Namespace: system, Name: c.namespace}
		s.status.Source = status.Source{Nodes: true, Pods: status.Pods{Namespace: system, Labels: labels}}
	})
	c.waitAddresses(ing, "203.0.113.1")
	in.waitURL("https://shop.example/", "one")
	in.waitCertificate("shop.example", "typed")
	c.waitEvents("web", 1)
}

// Without permissions nothing is served, and readiness says what is refused,
// until they are granted.
func TestWithoutPermissions(t *testing.T) {
	c := newCluster(t)
	shipped := shippedRoles(t)
	user := c.namespace + "-user"
	in := c.start(func(s *settings) { s.config, s.silent = envtest.User(t, user), true })
	eventually(t, func() error {
		refused := 0
		for _, check := range in.follows.Ready() {
			if strings.Contains(check.Detail, fmt.Sprintf("cannot list resource %q", check.Name)) && !check.Ready {
				refused++
			}
		}
		if refused != 4 {
			return errNotYet(fmt.Sprintf("%+v", in.follows.Ready()))
		}
		return nil
	})
	c.createOnce(shipped.cluster)
	c.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: shipped.cluster.Name},
	})
	eventually(t, func() error { return in.waitsFor() })
}
