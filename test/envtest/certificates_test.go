package envtest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/tls/acme"
)

// withIssuer has an instance get certificates of a CA of its own, and take part
// in the election of the one that orders.
func (c *cluster) withIssuer(storage string) func(*settings) {
	c.t.Helper()
	list, err := (&acme.Config{Issuers: []acme.IssuerConfig{{Name: "own", CA: true}}}).Open()
	if err != nil {
		c.t.Fatal(err)
	}
	return func(s *settings) {
		s.issuers, s.storage = list, storage
		s.status.Lease = status.Lease{Namespace: storage, Name: "leader", Duration: 2 * time.Second}
	}
}

func annotate(pairs ...string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		if ing.Annotations == nil {
			ing.Annotations = make(map[string]string)
		}
		for i := 0; i < len(pairs); i += 2 {
			ing.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// waitSource waits until the host's certificate comes from there.
func (in *instance) waitSource(host, want string) {
	in.t.Helper()
	eventually(in.t, func() error {
		if s := in.certs.Select(host); s.Source != want {
			return fmt.Errorf("%s gets its certificate from %s (%s), want %s", host, s.Source, s.Why, want)
		}
		return nil
	})
}

// An annotation is enough: the Secret is written once, every replica serves it,
// Events tell of it, and nothing is left behind but what has to be.
func TestCertificatesOnEveryReplica(t *testing.T) {
	c := newCluster(t)
	storage := c.newNamespace()
	first, second := c.start(c.withIssuer(storage)), c.start(c.withIssuer(storage))
	ing := c.ingress("web", annotate("kubernetes.io/tls-acme", "true"), rule("a.example", prefix, "/", "one"), tlsFor("web-tls", "a.example"))
	for _, in := range []*instance{first, second} {
		in.waitSource("a.example", "Secret "+c.namespace+"/web-tls")
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "web-tls"}}
	if !c.exists(secret) || secret.Type != corev1.SecretTypeTLS || secret.Labels[certs.ManagedLabel] != "true" || len(secret.Data["ca.crt"]) == 0 {
		t.Errorf("%s %v", secret.Type, secret.Labels)
	}
	c.waitReason("web", acme.StepOrdering)
	c.waitReason("web", acme.StepIssued)
	serial := second.certs.Select("a.example").Certificate.Leaf.SerialNumber
	if got := first.certs.Select("a.example").Certificate.Leaf.SerialNumber; got.Cmp(serial) != 0 {
		t.Error("the replicas serve different certificates")
	}

	// What is deleted comes back, from what is stored.
	c.delete(secret)
	eventually(t, func() error {
		if !c.exists(secret) {
			return errNotYet("the Secret is missing")
		}
		return nil
	})
	second.waitSource("a.example", "Secret "+c.namespace+"/web-tls")
	if got := second.certs.Select("a.example").Certificate.Leaf.SerialNumber; got.Cmp(serial) != 0 {
		t.Error("a certificate was ordered although there is one")
	}

	// Going back: the Secret stays, without our label.
	update(c, ing, func(ing *networkingv1.Ingress) { delete(ing.Annotations, "kubernetes.io/tls-acme") })
	eventually(t, func() error {
		if !c.exists(secret) || secret.Labels[certs.ManagedLabel] != "" || len(secret.Data[corev1.TLSCertKey]) == 0 {
			return fmt.Errorf("labels %v", secret.Labels)
		}
		return nil
	})
}

// storageUser is a user with the rights that are shipped, and those of the storage
// in its namespace: none to write into the namespaces of Ingresses.
func (c *cluster) storageUser(storage string) string {
	c.t.Helper()
	shipped, user := shippedRoles(c.t), c.namespace+"-user"
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}}
	c.createOnce(shipped.cluster)
	c.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: shipped.cluster.Name},
	})
	shipped.storage.Namespace = storage
	c.create(shipped.storage)
	c.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: storage, Name: user}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: shipped.storage.Name},
	})
	return user
}

// Without the right to write, certificates are served from the storage, also by a
// replica that starts later, from its first handshake on. Given the right, they
// are written.
func TestCertificatesWithoutWriting(t *testing.T) {
	c := newCluster(t)
	storage := c.newNamespace()
	user := c.storageUser(storage)
	mine := func(s *settings) { s.config = envtest.User(t, user) }
	in := c.start(c.withIssuer(storage), mine)
	c.ingress("web", annotate("portico.dev/issuer", "own"), rule("a.example", prefix, "/", "one"), tlsFor("web-tls", "a.example"))
	in.waitSource("a.example", "issuer own")
	c.waitReason("web", string(certs.ReasonNotWritten))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "web-tls"}}
	if c.exists(secret) {
		t.Fatal("the Secret was written without a right to")
	}
	later := c.start(c.withIssuer(storage), mine)
	later.issued.AwaitPlan(t.Context())
	if s := later.certs.Select("a.example"); s.Source != "issuer own" {
		t.Errorf("after a start: %s (%s)", s.Source, s.Why)
	}
	if ready, detail := later.issued.Ready(); !ready || detail != "" {
		t.Errorf("ready %v, %s", ready, detail)
	}
	c.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: user},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "update"}}},
	})
	c.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: user}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
	})
	in.stop() // another replica is elected, and tries at once
	later.waitSource("a.example", "Secret "+c.namespace+"/web-tls")
}

// A storage that may not be read costs the certificates in it, and nothing else.
func TestStorageRefused(t *testing.T) {
	c := newCluster(t)
	storage, user := c.newNamespace(), c.namespace+"-user"
	shipped := shippedRoles(t)
	c.createOnce(shipped.cluster)
	c.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: shipped.cluster.Name},
	})
	// The shipped role reads TLS Secrets everywhere, and so those of the storage;
	// this one reads in the namespace of Ingresses only.
	c.echoService("one")
	c.secret(c.namespace, "good-tls", corev1.SecretTypeTLS, keyPair(t, "good", "good.example"))
	c.ingress("good", rule("good.example", prefix, "/", "one"), tlsFor("good-tls", "good.example"))
	narrow := c.namespace + "-narrow"
	c.bindWithoutSecrets(narrow)
	c.bindSecrets(narrow, c.namespace)
	in := c.start(c.withIssuer(storage), func(s *settings) { s.config = envtest.User(t, narrow) })
	in.waitURL("https://good.example/", "one")
	in.waitCertificate("good.example", "good")
	eventually(t, func() error {
		if ready, detail := in.issued.Ready(); !ready || !strings.Contains(detail, "forbidden") {
			return fmt.Errorf("ready %v: %s", ready, detail)
		}
		return nil
	})
}

// A Secret of somebody else is served as it stands; with our label it is ours.
func TestHandOver(t *testing.T) {
	c := newCluster(t)
	storage := c.newNamespace()
	theirs := c.secret(c.namespace, "web-tls", corev1.SecretTypeTLS, keyPair(t, "theirs", "a.example")) // for an hour
	in := c.start(c.withIssuer(storage))
	c.ingress("web", annotate("portico.dev/issuer", "own"), rule("a.example", prefix, "/", "one"), tlsFor("web-tls", "a.example"))
	in.waitCertificate("a.example", "theirs")
	c.waitReason("web", string(certs.ReasonForeign))
	var stored corev1.SecretList
	if err := c.List(t.Context(), &stored, client.InNamespace(storage)); err != nil || len(stored.Items) != 0 {
		t.Errorf("something was ordered: %d objects, %v", len(stored.Items), err)
	}
	out := envtest.Kubectl(t, "label", "secret", "web-tls", "-n", c.namespace, certs.ManagedLabel+"=true") // as the Event says
	eventually(t, func() error {
		if !c.exists(theirs) || theirs.Annotations["portico.dev/issuer"] != "own" {
			return fmt.Errorf("%s: annotations %v", out, theirs.Annotations)
		}
		return nil
	})
	in.waitCertificate("a.example", "theirs") // it is good for a while
}

// TestNotOurs: a namespace that claims another's host gets no order and no Secret
// and takes nothing away; what cert-manager cares for is left to it.
func TestNotOurs(t *testing.T) {
	c := newCluster(t)
	storage, thief := c.newNamespace(), c.newNamespace()
	in := c.start(c.withIssuer(storage), func(s *settings) { s.namespaces = append(s.namespaces, thief) })
	asks := annotate("portico.dev/issuer", "own")
	owner := c.ingress("web", asks, rule("a.example", prefix, "/", "one"), tlsFor("web-tls", "a.example"))
	in.waitSource("a.example", "Secret "+c.namespace+"/web-tls")
	serial := in.certs.Select("a.example").Certificate.Leaf.SerialNumber
	c.ingress("theirs", annotate("kubernetes.io/tls-acme", "true", "cert-manager.io/cluster-issuer", "x"), rule("b.example", prefix, "/", "one"), tlsFor("theirs-tls", "b.example"))
	c.ingress("both", annotate("portico.dev/issuer", "own", "cert-manager.io/issuer", "x"), rule("c.example", prefix, "/", "one"), tlsFor("both-tls", "c.example"))
	c.waitNextSecond(owner)
	c.ingressIn(thief, "web", asks, rule("a.example", prefix, "/x", "one"), tlsFor("web-tls", "a.example"))
	c.waitReason("both", string(certs.ReasonCertManager))
	eventually(t, func() error {
		for _, p := range in.publisher.Problems() {
			if p.Object.Namespace == thief && p.Reason == certs.ReasonNotOwned {
				return nil
			}
		}
		return errNotYet("the claim is not refused")
	})
	// One more that is ours: whatever else was to be ordered is, by then.
	c.ingress("last", asks, rule("z.example", prefix, "/", "one"), tlsFor("last-tls", "z.example"))
	in.waitSource("z.example", "Secret "+c.namespace+"/last-tls")
	for _, ref := range [][2]string{{c.namespace, "theirs-tls"}, {c.namespace, "both-tls"}, {thief, "web-tls"}} {
		if c.exists(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ref[0], Name: ref[1]}}) {
			t.Errorf("Secret %s was written", ref)
		}
	}
	var records corev1.SecretList
	if err := c.List(t.Context(), &records, client.InNamespace(storage), client.MatchingLabels{"portico.dev/acme": "record"}); err != nil || len(records.Items) != 2 {
		t.Errorf("%d records, %v", len(records.Items), err)
	}
	if got := in.certs.Select("a.example").Certificate.Leaf.SerialNumber; got.Cmp(serial) != 0 {
		t.Error("another certificate is served")
	}
}
